"""What rules check and unpack in common: settings, parameters, loss, horizon."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mulo._checks import numbers
from mulo._checks.leaf_names import named_leaves

_LONGEST = float(np.finfo(np.float32).max)  # Steps of a run.


def _of_fields(
    check: Callable[[str, Any], None],
) -> Callable[[object, Sequence[str]], None]:
    """A check of one number, for fields of an object: names them in its ValueError."""

    def checked(settings: object, names: Sequence[str]) -> None:
        for name in names:
            check(name, getattr(settings, name))

    return checked


check_sizes = _of_fields(numbers.check_size)  # Integers >= 1.
check_bools = _of_fields(numbers.check_bool)
check_positive = _of_fields(numbers.check_positive)  # And finite.
check_finite = _of_fields(numbers.check_finite)
check_single_decays = _of_fields(numbers.check_decay)  # One each, in [0, 1).


def check_decays(settings: object, names: Sequence[str]) -> None:
    """Turn these fields into tuples; raise ValueError unless they lie in [0, 1)."""
    for name in names:
        decays = numbers.decays(name, getattr(settings, name))
        object.__setattr__(settings, name, decays)  # Lists from JSON become tuples.


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Shape of every leaf by its path."""
    return {name: tuple(np.shape(leaf)) for name, leaf in named_leaves(tree)}


def check_num_steps(rule: str, num_steps: Any) -> jax.Array:
    """Return the horizon as a float32 scalar, at least 1 and at most float32's largest.

    One that is traced cannot be refused: what is not at least 1 counts as 1.

    Raises:
      ValueError: If it is missing, not one number, or less than 1.
    """
    if num_steps is None:
        raise ValueError(
            f"{rule} must know how long the run is: give num_steps, the number of "
            "updates, as in transform(theta, num_steps=10_000); got None."
        )
    if np.ndim(num_steps) != 0:
        raise ValueError(
            f"num_steps of {rule} must be one number, got shape {np.shape(num_steps)}."
        )
    if numbers.is_traced(num_steps):
        horizon = jnp.minimum(jnp.asarray(num_steps, jnp.float32), _LONGEST)
        return jnp.where(horizon >= 1.0, horizon, 1.0)  # NaN too.
    if not numbers.is_number(num_steps) or not 1 <= num_steps < math.inf:
        raise ValueError(
            f"num_steps of {rule} must be a finite number >= 1, got {num_steps!r}."
        )
    return jnp.asarray(min(num_steps, _LONGEST), jnp.float32)


def loss_of(rule: str, value: Any, loss: Any) -> jax.Array:
    """Return the loss passed to ``update`` as ``value=`` (alias ``loss=``), float32.

    Raises:
      ValueError: If it is missing or not a scalar.
    """
    given = loss if value is None else value
    if given is None:
        raise ValueError(
            f"{rule} reads the loss: call tx.update(grads, state, params, value=loss), "
            "got value=None."
        )
    if np.ndim(given) != 0:
        raise ValueError(
            f"The loss given to {rule} must be a scalar, got shape {np.shape(given)}. "
            "Average it over the batch."
        )
    kind = given.dtype if hasattr(given, "dtype") else type(given)
    if not jnp.issubdtype(kind, jnp.number) or jnp.issubdtype(kind, np.complexfloating):
        raise ValueError(
            f"The loss given to {rule} must be a real number, got {given!r}."
        )
    return jnp.asarray(given, jnp.float32)


def check_floating(rule: str, params: Any) -> None:
    """Raise ValueError, naming the leaf, if one is not of a real floating dtype."""
    for name, leaf in named_leaves(params):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(
                f"{rule} optimizes real floating-point arrays; leaf {name!r} is "
                f"{jnp.result_type(leaf)}. Leave it out with optax.masked or "
                "optax.partition."
            )


def require_params(rule: str, params: Any) -> None:
    """Raise ValueError if ``update`` was called without parameters."""
    if params is None:
        raise ValueError(
            f"{rule} reads the parameters: call tx.update(grads, state, params), got "
            "params=None."
        )


def end_warner(rule: str, num_steps: Any) -> Callable[[Any], None]:
    """Make a function that warns, once, of a run that goes on beyond its end.

    Args:
      rule: Name of the rule, for the message.
      num_steps: Length of the run the rule was made for; None for none.

    Returns:
      A function of the number of updates, this one included. What is traced cannot be
      looked at: inside jit nothing is said.
    """
    said = False

    def warn(count):
        nonlocal said
        if said or num_steps is None:
            return
        if numbers.is_traced(count) or numbers.is_traced(num_steps):
            return
        if int(count) > num_steps:
            said = True
            warnings.warn(
                f"{rule} was made for num_steps={num_steps} and is asked for more: the "
                "rate stays at its end value from here on. Give transform the number "
                "of updates the run will make.",
                stacklevel=4,
            )

    return warn
