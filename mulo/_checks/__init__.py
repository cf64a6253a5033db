"""Checks of what users give, with errors that name what, got and fix."""
