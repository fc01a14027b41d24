"""Supervised fine-tuning, reward model and PPO: each a pure `update(state, batch)`."""
