"""Terms of a reward: what a response scores before the KL penalty."""
