"""The coordinate check: ``python -m evaluate.coord_check``."""
