"""Reinforcement learning from human feedback in JAX: InstructGPT, every term a pure function."""

__version__ = "0.1.0"
