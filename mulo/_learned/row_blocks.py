"""Row by row functions on a few rows at a time, so that what they make stays in cache.

Axis names: M momenta, K product of the unfactored axes, A and B the two factored axes
in the array's own order, H hidden units.
"""

import jax
import jax.numpy as jnp

# Parameters sent through the network at once on CPUs, where two hidden layers of a
# block stay in cache. Accelerators take the whole array.
CPU_BLOCK_SIZE = 8_192


def in_blocks(run, shape, by_row, by_column):
    """Call ``run(*by_row, *by_column)`` on a few rows at a time where that is faster.

    Args:
      run: Maps arrays with axes (…, A, B) to (…, A, B), row by row.
      shape: (K, A, B).
      by_row: g, p (K, A, B), m (M, K, A, B), v, factor (M, K, A), share (K, A, H).
      by_column: factor (M, K, B) and share (K, B, H): the same for every row.

    Returns:
      (K, A, B).
    """
    k, a, b = shape
    rows = max(1, CPU_BLOCK_SIZE // b)
    if k * a * b <= 2 * CPU_BLOCK_SIZE or jax.default_backend() != "cpu" or rows >= a:
        return run(*by_row, *by_column)
    k_axes, column_k_axes = (0, 0, 1, 0, 1, 0), (1, 0)  # Where K is, then A.

    def run_rows(by_row, by_column):
        """The same without K."""
        row_axes = (0, 0, 1, 0, 1, 0)
        whole = a // rows * rows
        parts = []
        if whole:
            blocks = [
                jnp.moveaxis(
                    jax.lax.slice_in_dim(x, 0, whole, axis=axis).reshape(
                        *x.shape[:axis], whole // rows, rows, *x.shape[axis + 1 :]
                    ),
                    axis,
                    0,
                )
                for x, axis in zip(by_row, row_axes, strict=True)
            ]
            out = jax.lax.map(lambda block: run(*block, *by_column), blocks)
            parts.append(out.reshape(whole, b))
        if whole < a:
            rest = [
                jax.lax.slice_in_dim(x, whole, a, axis=axis)
                for x, axis in zip(by_row, row_axes, strict=True)
            ]
            parts.append(run(*rest, *by_column))
        return jnp.concatenate(parts)

    def without_k(arrays, axes, i):
        return [
            jax.lax.dynamic_index_in_dim(x, i, axis, keepdims=False)
            for x, axis in zip(arrays, axes, strict=True)
        ]

    return jax.lax.map(
        lambda i: run_rows(
            without_k(by_row, k_axes, i), without_k(by_column, column_k_axes, i)
        ),
        jnp.arange(k),
    )
