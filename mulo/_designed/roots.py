"""Eigenbases and inverse roots of symmetric statistics, batched and guarded.

SOAP and Shampoo average outer products of gradients. Such a matrix may be rank
deficient, all zero, of any scale, or (after an accident) not finite. Every function
here takes a batch, normalizes each matrix by its largest entry, works at the highest
matmul precision (TF32 rotates bases), and keeps what the caller had before wherever the
result is not usable.

References:
  Higham, Functions of Matrices, 2008, equation 7.18 (coupled Newton iteration).

Axis names: n matrices, s rows and columns.
"""

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.lax import Precision

RootMethod = Literal["eigh", "newton"]

# A Newton root whose residual max|M - I| is larger than this is not used.
_NEWTON_FAILURE = 0.1
_NEWTON_TOLERANCE = 1e-6
_NEWTON_STEPS = 100


def eigenbasis(matrix: jax.Array, old: jax.Array) -> jax.Array:
    """Eigenvectors as columns, largest eigenvalue first.

    Args:
      matrix: shape=(n, s, s), symmetric positive semidefinite.
      old: shape=(n, s, s). Kept where the decomposition is not finite.

    Returns:
      shape=(n, s, s), orthogonal. The identity for a matrix of zeros.
    """
    _, vectors = _eigh(_normalized(matrix)[0])
    vectors = vectors[..., ::-1]
    return jnp.where(_usable(matrix, vectors), vectors, old)


def refine(matrix: jax.Array, basis: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One step of power iteration and QR from an old basis.

    The old columns are first ordered by their Rayleigh quotients, so that the leading
    direction comes first; what belongs to the columns must be permuted alike.

    Args:
      matrix: shape=(n, s, s), symmetric positive semidefinite.
      basis: shape=(n, s, s), orthogonal.

    Returns:
      The new basis, shape=(n, s, s), and the order, shape=(n, s), int32: column j
      continues column order[j] of the old one. Both unchanged where the new basis is
      not finite.
    """
    product = jnp.matmul(_normalized(matrix)[0], basis, precision=Precision.HIGHEST)
    order = jnp.argsort(-jnp.sum(basis * product, axis=-2), axis=-1)
    order = order.astype(jnp.int32)
    ordered = jnp.take_along_axis(product, order[:, None, :], axis=-1)
    new, _ = _qr(ordered)
    usable = _usable(matrix, new)
    same = jnp.broadcast_to(jnp.arange(order.shape[-1], dtype=jnp.int32), order.shape)
    return jnp.where(usable, new, basis), jnp.where(usable[..., 0], order, same)


def inverse_root(
    matrix: jax.Array,
    old: jax.Array,
    power: float,
    *,
    ridge: jax.typing.ArrayLike,
    method: RootMethod,
) -> jax.Array:
    """``(matrix + ridge * λ_max * I) ** -power``.

    Args:
      matrix: shape=(n, s, s), symmetric positive semidefinite.
      old: shape=(n, s, s). Kept where the matrix is zero or the root fails.
      power: Positive; for ``"newton"`` one over an integer.
      ridge: Relative to the largest eigenvalue. Below the dtype's resolution the
        directions a rank-deficient matrix does not have are noise.
      method: ``"eigh"``, or ``"newton"``: matmuls only, faster on accelerators.

    Returns:
      shape=(n, s, s), symmetric.

    Raises:
      ValueError: If the method is unknown or does not know the power.
    """
    if method not in get_args(RootMethod):
        raise ValueError(
            f"root must be one of {', '.join(get_args(RootMethod))}; got {method!r}."
        )
    unit, scale = _normalized(matrix)
    if method == "eigh":
        root, good = _root_by_eigh(unit, power, ridge)
    else:
        root, good = _root_by_newton(unit, _whole(1.0 / power), ridge)
    root = root * scale**-power
    good &= jnp.abs(matrix).max((1, 2)) > 0
    return jnp.where(_usable(matrix, root) & good[:, None, None], root, old)


def _one_at_a_time(decompose, matrices):
    """Decompose a batch; on CPUs matrix by matrix.

    XLA's CPU kernels share a batch out over the pool of threads they run in and wait
    for it there: as many of them at once as there are threads, two on two cores, wait
    for each other forever (jaxlib 0.10.2). One matrix needs no sharing out.
    """
    one = jax.custom_batching.sequential_vmap(decompose)
    return jax.lax.platform_dependent(matrices, cpu=jax.vmap(one), default=decompose)


def _eigh(matrices):
    return _one_at_a_time(lambda m: tuple(jnp.linalg.eigh(m)), matrices)


def _qr(matrices):
    return _one_at_a_time(lambda m: tuple(jnp.linalg.qr(m)), matrices)


def _root_by_eigh(unit, power, ridge):
    values, vectors = _eigh(unit)
    floor = ridge * values[:, -1:]
    # Rounding may leave a null direction slightly negative: it gets the ridge.
    values = jnp.maximum(values + floor, floor)
    # A square root of the result on each side keeps it exactly symmetric.
    half = vectors * values[:, None, :] ** (-0.5 * power)
    root = jnp.matmul(half, half.mT, precision=Precision.HIGHEST)
    return root, jnp.ones(unit.shape[0], bool)


def _root_by_newton(unit, p, ridge):
    size = unit.shape[-1]
    eye = jnp.broadcast_to(jnp.eye(size, dtype=unit.dtype), unit.shape)
    damped = unit + (ridge * _largest_eigenvalue(unit))[:, None, None] * eye
    # All eigenvalues of the start lie in (0, (1 + p) / 2]: the iteration converges.
    z = (1.0 + p) / (2.0 * jnp.sqrt(jnp.sum(damped**2, axis=(1, 2), keepdims=True)))

    # Eigenvalues stay in (0, (1 + p) / 2], so no entry of M - I is larger than this.
    bound = 1.2 * max(1.0, (p - 1.0) / 2.0)

    def residual(m):
        return jnp.abs(m - eye).max((1, 2))

    def unfinished(carry):
        i, _, _, _, done = carry
        return (i < _NEWTON_STEPS) & ~jnp.all(done)

    def step(carry):
        i, m, h, error, done = carry
        factor = ((p + 1.0) * eye - m) / p
        new_m = _matmul(_integer_power(factor, p), m)
        new_h = _matmul(h, factor)
        new_error = residual(new_m)
        # On the way the error may rise, up to what the eigenvalues allow; near the end,
        # rounding makes it rise.
        allowed = jnp.where(error < 1e-2, error, bound)
        better = ~done & (new_error < allowed)
        take = better[:, None, None]
        error = jnp.where(better, new_error, error)
        done = done | ~better | (error < _NEWTON_TOLERANCE)
        m, h = jnp.where(take, new_m, m), jnp.where(take, new_h, h)
        return i + 1, m, h, error, done

    m, h = damped * z, eye * z ** (1.0 / p)
    error = residual(m)
    start = jnp.zeros((), jnp.int32), m, h, error, error < _NEWTON_TOLERANCE
    _, _, h, error, _ = jax.lax.while_loop(unfinished, step, start)
    return 0.5 * (h + h.mT), error < _NEWTON_FAILURE


def _largest_eigenvalue(unit):
    """Estimate it from below by 64 power iterations on all directions at once."""
    power = unit
    for _ in range(6):
        power = _normalized(_matmul(power, power))[0]
    trace = jnp.trace(power, axis1=1, axis2=2)
    return jnp.sum(power * unit, axis=(1, 2)) / jnp.where(trace > 0, trace, 1.0)


def _integer_power(matrix, p: int):
    result = None
    while p:
        if p % 2:
            result = matrix if result is None else _matmul(result, matrix)
        p //= 2
        matrix = _matmul(matrix, matrix) if p else matrix
    return result


def _whole(p: float) -> int:
    if abs(p - round(p)) > 1e-9 or p < 1:
        raise ValueError(
            'root="newton" takes inverse p-th roots for whole p only; this exponent '
            f'and rank need p = {p:g}. Use root="eigh".'
        )
    return round(p)


def _matmul(a, b):
    return jnp.matmul(a, b, precision=Precision.HIGHEST)


def _normalized(matrix):
    """Divide each matrix by its largest entry; the scale has shape (n, 1, 1)."""
    scale = jnp.abs(matrix).max((1, 2), keepdims=True)
    scale = jnp.where(scale > 0, scale, 1.0)
    return matrix / scale, scale


def _usable(*matrices):
    """Whether all are finite: dividing by an infinite entry may hide it."""
    finite = [jnp.all(jnp.isfinite(m), axis=(1, 2), keepdims=True) for m in matrices]
    return functools.reduce(jnp.logical_and, finite)
