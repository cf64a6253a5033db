"""Optimizers designed by hand, under the standard parametrization and μP."""
