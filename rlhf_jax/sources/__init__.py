"""Where records come from: one module a source, under one protocol (source.py)."""
