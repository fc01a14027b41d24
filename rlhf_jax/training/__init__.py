"""The loop that every stage shares: optimizer, checkpoints, metrics, progress."""
