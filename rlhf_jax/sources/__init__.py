"""Data sources: one module for each, with one protocol (source.py)."""
