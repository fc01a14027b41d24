"""Every program of an experiment, compiled ahead of time for a topology that need not be there."""
