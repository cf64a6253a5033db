"""Which numbers are taken as settings: every message names the setting and the value.

Booleans and strings are no numbers. Traced values and schedules cannot be looked at and
pass, except where a field must be known beforehand.
"""

import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_number(value: Any) -> bool:
    """Whether a value is one real number: Python's, numpy's or an array's of rank 0."""
    if isinstance(value, np.ndarray | jax.Array):
        real = jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(
            value.dtype, jnp.integer
        )
        return value.ndim == 0 and real
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_traced(value: Any) -> bool:
    """Whether a value is not known yet."""
    return isinstance(value, jax.core.Tracer)


def check_size(name: str, value: Any) -> None:
    """Raise ValueError unless a value is an integer >= 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer >= 1, got {value!r}.")


def check_bool(name: str, value: Any) -> None:
    """Raise ValueError unless a value is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}.")


def check_finite(name: str, value: Any) -> None:
    """Raise ValueError unless a value is a finite number."""
    if not math.isfinite(_as_float(value)):
        raise _refusal(name, "be finite", value)


def check_positive(name: str, value: Any) -> None:
    """Raise ValueError unless a value is a finite number > 0."""
    if not 0.0 < _as_float(value) < math.inf:
        raise _refusal(name, "be finite and > 0", value)


def check_not_negative(name: str, value: Any) -> None:
    """Raise ValueError unless a value is a finite number >= 0."""
    if not 0.0 <= _as_float(value) < math.inf:
        raise _refusal(name, "be finite and >= 0", value)


def check_decay(name: str, value: Any) -> None:
    """Raise ValueError unless a value is a number in [0, 1)."""
    if not 0.0 <= _as_float(value) < 1.0:
        raise _refusal(name, "lie in [0, 1)", value)


def decays(name: str, values: Any) -> tuple[float, ...]:
    """Return numbers in [0, 1) as a tuple; raise ValueError if there is another."""
    array = isinstance(values, np.ndarray | jax.Array) and values.ndim == 1
    if not array and not isinstance(values, list | tuple):
        raise ValueError(f"{name} must be a list of numbers in [0, 1), got {values!r}.")
    given = tuple(values)
    if not given or not all(0.0 <= _as_float(d) < 1.0 for d in given):
        raise ValueError(f"{name} must lie in [0, 1), got {given}.")
    return tuple(float(d) for d in given)


def check_base_width(base_width: Any) -> None:
    """Raise ValueError unless a base width is a finite number > 0, or traced."""
    if not is_traced(base_width):
        check_positive("base_width", base_width)


def check_learning_rate(learning_rate: Any, name: str = "learning_rate") -> None:
    """Raise ValueError unless it is a finite number >= 0, a schedule, or traced."""
    if callable(learning_rate) or is_traced(learning_rate):
        return
    if not 0.0 <= _as_float(learning_rate) < math.inf:
        raise ValueError(
            f"{name} must be a finite number >= 0 or a schedule, got {learning_rate!r}."
        )


def check_scale(learning_rate: Any, base_width: Any) -> None:
    """Check what scales the steps of every hand-designed rule."""
    check_learning_rate(learning_rate)
    check_base_width(base_width)


def _as_float(value: Any) -> float:
    """The number, infinite if it is too large for a float; NaN if it is none."""
    if not is_number(value):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _refusal(name: str, rule: str, value: Any) -> ValueError:
    kind = "" if is_number(value) else "be a number and "
    return ValueError(f"{name} must {kind}{rule}, got {value!r}.")
