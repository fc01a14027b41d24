"""What survives a kill: checkpoints, manifests, model files, fingerprints, locks, signals."""
