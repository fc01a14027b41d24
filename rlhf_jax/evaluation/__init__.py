"""Win rates, intervals and the report."""
