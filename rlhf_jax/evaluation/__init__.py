"""Evaluators, intervals, and the report's table, page and figure."""
