"""Judges of responses: models behind an endpoint or on this machine, and what they say of pairs."""
