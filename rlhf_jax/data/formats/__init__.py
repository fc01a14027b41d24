"""Reads the formats of public data sets: one reader a format, found by a record's fields."""
