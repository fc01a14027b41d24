"""Compiles every program of an experiment for a TPU topology, without needing the TPUs."""
