"""Public benchmarks as evaluators, one file each; known.py lists them."""
