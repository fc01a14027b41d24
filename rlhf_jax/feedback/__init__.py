"""Labelers that rank outputs, and how well two labelers agree."""
