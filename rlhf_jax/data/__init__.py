"""Tokenizers, records, and the pipelines that turn records into batches."""
