"""Worlds generated from a seed, with a gold grader."""
