"""Learned rules: one file each, and the features, networks and stacks they share."""
