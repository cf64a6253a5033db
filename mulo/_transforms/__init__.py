"""Transformations around others: float32 inside, meshes, state dtypes."""
