"""Activation functions by name, and one chosen inside jit."""

from collections.abc import Callable
from typing import Any

import jax

from mulo import _hints as hints
from tasks import names

Activation = Callable[[jax.Array], jax.Array]

_FUNCTIONS: dict[str, Activation] = {
    "relu": jax.nn.relu,
    "tanh": jax.numpy.tanh,
    "gelu": jax.nn.gelu,  # By its tanh form.
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "sigmoid": jax.nn.sigmoid,
}
assert tuple(_FUNCTIONS) == names.ACTIVATIONS


def get(activation: str | Activation) -> Activation:
    """Return an activation function by its name; a function is returned as it is.

    Raises:
      ValueError: If the name is unknown.
    """
    if callable(activation):
        return activation
    if activation not in _FUNCTIONS:
        raise ValueError(
            f"activation must be one of {list(_FUNCTIONS)}, got {activation!r}."
            f"{hints.question(activation, _FUNCTIONS)}"
        )
    return _FUNCTIONS[activation]


def select(choices: tuple[str, ...], index: Any) -> Activation:
    """Return the ``index``-th of several activation functions.

    Args:
      choices: Names.
      index: shape=(), int32, may be traced.
    """
    branches = [get(name) for name in choices]
    return lambda x: jax.lax.switch(index, branches, x)
