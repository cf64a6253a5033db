"""Optimizers by name, their rates, schedules and thetas."""
