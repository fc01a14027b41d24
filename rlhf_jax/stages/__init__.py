"""The stages of an experiment: pretraining, SFT, feedback, reward model, policy gradient, DPO."""
