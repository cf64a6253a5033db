"""What learned rules check and unpack in common: theta, parameters, loss, horizon."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mulo._checks import numbers
from mulo._checks.leaf_names import named_leaves

# Sizes up to these are compared leaf by leaf, however few arrays there are.
_MANY_LAYERS = 100
_MANY_UNITS = 100_000

_LONGEST = float(np.finfo(np.float32).max)  # Steps of a run.


def check_sizes(rule: Any, names: Sequence[str]) -> None:
    """Raise ValueError unless these fields are integers >= 1."""
    for name in names:
        numbers.check_size(name, getattr(rule, name))


def check_bools(rule: Any, names: Sequence[str]) -> None:
    """Raise ValueError unless these fields are True or False."""
    for name in names:
        numbers.check_bool(name, getattr(rule, name))


def check_positive(rule: Any, names: Sequence[str]) -> None:
    """Raise ValueError unless these fields are finite and positive."""
    for name in names:
        numbers.check_positive(name, getattr(rule, name))


def check_finite(rule: Any, names: Sequence[str]) -> None:
    """Raise ValueError unless these fields are finite."""
    for name in names:
        numbers.check_finite(name, getattr(rule, name))


def check_single_decays(rule: Any, names: Sequence[str]) -> None:
    """Raise ValueError unless these fields, one decay each, lie in [0, 1)."""
    for name in names:
        numbers.check_decay(name, getattr(rule, name))


def check_decays(rule: Any, names: Sequence[str]) -> None:
    """Turn these fields into tuples; raise ValueError unless they lie in [0, 1)."""
    for name in names:
        decays = numbers.decays(name, getattr(rule, name))
        object.__setattr__(rule, name, decays)  # Lists from JSON become tuples.


def take_theta(rule: Any, theta: Any) -> Any:
    """Return theta in float32, the dtype of every rule's arithmetic and state.

    Raises:
      ValueError: As `check_theta`.
    """
    rule.check_theta(theta)
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), theta)


def check_theta(rule: Any, theta: Any) -> None:
    """Raise ValueError, naming the leaf, unless theta fits the architecture.

    Arrays of any real floating dtype do.
    """
    have = shapes(theta)
    check_extent(rule, have)
    want = shapes(jax.eval_shape(rule.init, jax.random.key(0)))
    for name in sorted(want.keys() | have.keys()):
        if name not in have:
            raise ValueError(f"theta lacks leaf {name!r}, {rule} needs it.")
        if name not in want:
            raise ValueError(f"theta has leaf {name!r}, unknown to {rule}.")
        if want[name] != have[name]:
            raise ValueError(
                f"theta leaf {name!r} must have shape {want[name]} for {rule}, "
                f"got {have[name]}."
            )
    for name, leaf in named_leaves(theta):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(
                f"theta leaf {name!r} must be of a real floating dtype, float32 at "
                f"best, got {jnp.result_type(leaf)}."
            )


def check_extent(rule: Any, have: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError if a size is far beyond what these arrays can belong to.

    Every size of an architecture is an axis of some array of its theta, and every layer
    has arrays of its own. To be called before the shapes of a theta are worked out,
    which takes as long as there are layers.

    Args:
      rule: The architecture, maybe described by a damaged file.
      have: Shapes of the arrays by name.
    """
    layers = max(_MANY_LAYERS, len(have))
    units = max(_MANY_UNITS, *(n for shape in have.values() for n in shape), 0)
    for field in dataclasses.fields(rule):
        value = getattr(rule, field.name)
        if isinstance(value, bool) or not isinstance(value, int):
            continue
        is_depth = field.name.endswith("_layers")
        if value > (layers if is_depth else units):
            most = (
                f"holds {len(have)} arrays"
                if is_depth
                else f"has no axis longer than {units}"
            )
            raise ValueError(
                f"{field.name} of {type(rule).__name__} is {value}, and theta {most}: "
                "they do not belong together."
            )


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


def refuse_param_scale_under_mup(rule: Any, mup: Any) -> None:
    """Raise ValueError if a step proportional to the weights meets a μP tree."""
    if mup is not None and rule.param_scale_mult:
        name = type(rule).__name__
        raise ValueError(
            f"{name} with param_scale_mult=True multiplies each step by the RMS of the "
            "weights, which shrinks with width already and is zero for a μP readout; "
            f"for μP use {name}(param_scale_mult=False), got a mup tree."
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
