"""Row by row functions on a few rows at a time: what they make stays in cache on CPUs.

Axis names: M momenta, K product of the unfactored axes, A and B the two factored axes
in the array's own order, H hidden units.
"""

import math

import jax
import jax.numpy as jnp

from mulo._learned import placement

# About how many parameters go through the network at once: on one CPU core, where two
# hidden layers of a block stay in cache, and on an accelerator, where they are written
# to memory: with 32 units about 1 GiB. Matrices are cut into rows, no further: all K go
# at once if one fits, and a row is not cut.
CPU_BLOCK_SIZE = 8_192
_ACCELERATOR_BLOCK_SIZE = 2**22

_K_AXES = (0, 0, 1, 0, 1, 1)  # Of what goes by rows, where K is; then comes A.
_COLUMN_K_AXIS = 1


def in_blocks(run, shape, by_row, by_column):
    """Call ``run(*by_row, *by_column)`` on a few rows at a time where that is better.

    Args:
      run: Maps arrays with axes (…, A, B) to (…, A, B), row by row.
      shape: (K, A, B).
      by_row: g, p (K, A, B), m (M, K, A, B), v, factor (M, K, A), share (H, K, A).
      by_column: factor (M, K, B) and share (H, K, B): the same for every row.

    Returns:
      (K, A, B).
    """
    k, a, b = shape
    block_size = _block_size()
    if k * a * b <= block_size:
        return run(*by_row, *by_column)
    rows = _rows_at_once(a, b, block_size)
    if rows >= a:
        return run(*by_row, *by_column)

    def run_rows(i, start, count):
        """Some rows of the i-th matrix."""
        # Cut here: blocks that are cut beforehand are copies of all.
        cut = [
            jax.lax.dynamic_slice_in_dim(_at(x, i, axis), start, count, axis)
            for x, axis in zip(by_row, _K_AXES, strict=True)
        ]
        return run(*cut, *(_at(x, i, _COLUMN_K_AXIS) for x in by_column))

    blocks, rest = divmod(a, rows)
    out = jax.lax.map(
        lambda n: run_rows(n // blocks, n % blocks * rows, rows),
        jnp.arange(k * blocks),
    ).reshape(k, a - rest, b)
    if not rest:
        return out
    last = jax.lax.map(lambda i: run_rows(i, a - rest, rest), jnp.arange(k))
    return jnp.concatenate([out, last], axis=1)


def _block_size() -> float:
    if jax.default_backend() != "cpu":
        return _ACCELERATOR_BLOCK_SIZE if placement.is_on_one_device() else math.inf
    # Smaller operations are not worth sharing. More than two cores were not measured.
    return CPU_BLOCK_SIZE * (2 if placement.shares_cores() else 1)


def _rows_at_once(a: int, b: int, block_size: float) -> int:
    """Rows of a block; on CPUs an odd number, so that the last block may have fewer."""
    most = max(1, int(block_size) // b)
    rows = math.ceil(a / math.ceil(a / most))
    # Hidden units lie one block apart in memory: a power of two would put the same
    # entry of all of them into the same few places of a cache.
    return rows | 1 if jax.default_backend() == "cpu" else rows


def _at(x, i, axis):
    return jax.lax.dynamic_index_in_dim(x, i, axis, keepdims=False)
