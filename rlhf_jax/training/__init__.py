"""The loop that every stage shares: optimizer, gradients, metrics, progress."""
