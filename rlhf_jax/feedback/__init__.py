"""Labelers: who ranks the outputs, and how well they agree."""
