"""Theta files: reading every format, writing one, and the card beside it."""
