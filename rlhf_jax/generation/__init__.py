"""Sampling from a policy with a KV cache."""
