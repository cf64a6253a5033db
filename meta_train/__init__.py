"""Meta-training: gradient estimators, the outer loop, checkpoints and resume."""
