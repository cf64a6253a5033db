"""What a learned update does: ``python -m evaluate.inspect``."""
