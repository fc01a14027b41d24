"""Reward terms: their weighted sum is a response's score, before the KL penalty."""
