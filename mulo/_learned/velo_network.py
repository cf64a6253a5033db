"""What VeLO and Celo share: theta's parts and the bank of MLPs.

Axis names: T tensors, C MLPs in the bank (controls), U units of the LSTM.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mulo._learned import features
from mulo._learned import lstm as lstm_lib
from mulo._learned import mlp as network_lib

Theta = Any


def init_rnn(key: jax.Array, num_inputs: int, units: int, controls: int) -> Theta:
    """Draw ``lstm_init_state`` and ``rnn_params``, as VeLO and Celo have them."""
    keys = jax.random.split(key, 6)
    rnn = {
        name: lstm_lib.init_linear(k, num_inputs, units)
        for name, k in zip(("linear", "linear_1", "linear_2"), keys[:3], strict=True)
    }
    rnn["rnn"] = lstm_lib.init_lstm(keys[3], units, units)
    if controls:
        rnn["rnn_to_controls"] = lstm_lib.init_linear(keys[4], units, controls)
    rnn["step_size"] = lstm_lib.init_linear(keys[5], units, 1)
    zeros = jnp.zeros((1, units), jnp.float32)
    return {"lstm_init_state": {"hidden": zeros, "cell": zeros}, "rnn_params": rnn}


def init_bank(
    key: jax.Array, num_momenta: int, hidden: Sequence[int], controls: int
) -> dict[str, jax.Array]:
    """Draw ``ff_mod_stack``: C per-parameter MLPs with hidden layers of these sizes."""
    groups = features.VELO.sizes(num_momenta)
    sizes = [sum(groups), *hidden, 3]
    bank = {}
    for i, layer_key in enumerate(jax.random.split(key, len(sizes) - 1)):
        shape = (controls, sizes[i], sizes[i + 1])
        weights = lstm_lib.draw_weights(layer_key, shape, sizes[i])
        if i == 0:
            parts = jnp.split(weights, np.cumsum(groups)[:-1].tolist(), axis=1)
            bank |= {f"w0__{k}": part for k, part in enumerate(parts)}
        else:
            bank[f"w{i}"] = weights
        bank[f"b{i}"] = jnp.zeros((controls, sizes[i + 1]), jnp.float32)
    return bank


def run_lstm(
    params: Any, x: jax.Array, hidden: jax.Array, cell: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Read each tensor's features, and a maximum over all.

    Args:
      params: ``rnn_params``.
      x: A row per tensor.
      hidden: Last output, (T, U).
      cell: Last cell state, (T, U).

    Returns:
      The new output and cell state, (T, U) each.
    """
    # The public code computes ``linear`` too and throws its output away.
    common = jax.nn.relu(lstm_lib.linear(params["linear_1"], x))
    x = lstm_lib.linear(params["linear_2"], x) + jnp.max(common, axis=0, keepdims=True)
    return lstm_lib.lstm_step(params["rnn"], x, hidden, cell)


def mix(
    bank: dict[str, jax.Array], controls: jax.Array, factor: float
) -> network_lib.Network:
    """Weighted means over the bank, one network per row of controls.

    Args:
      bank: C MLPs.
      controls: Weights, (T, C).
      factor: On the mean.

    Returns:
      T networks, on the leading axis of every array.
    """
    first = [bank[f"w0__{i}"] for i in range(len(features.GROUPS))]
    layers = [jnp.concatenate(first, axis=1), bank["b0"]]
    for i in range(1, sum(name.startswith("b") for name in bank)):
        layers += [bank[f"w{i}"], bank[f"b{i}"]]
    count = controls.shape[1]
    # One product for the whole bank; the mean of the public code is a sum over C.
    flat = jnp.concatenate([x.reshape(count, -1) for x in layers], axis=1)
    mixed = jnp.matmul(
        controls * (factor / count), flat, precision=jax.lax.Precision.HIGHEST
    )
    ends = np.cumsum([x.size // count for x in layers])[:-1].tolist()
    parts = [
        part.reshape(-1, *layer.shape[1:])
        for part, layer in zip(jnp.split(mixed, ends, axis=1), layers, strict=True)
    ]
    return network_lib.Network(
        parts[0], parts[1], tuple(zip(parts[2::2], parts[3::2], strict=True))
    )


def scale_of(param: jax.Array) -> jax.Array:
    """Root mean square of a tensor."""
    mean_square = jnp.mean(jnp.square(jnp.asarray(param, jnp.float32)))
    return jnp.sqrt(mean_square + 1e-9)


def refuse_param_scale_under_mup(rule: str, param_scale_mult: bool, mup: Any) -> None:
    """Raise ValueError if a step proportional to the weights meets a μP tree."""
    if mup is not None and param_scale_mult:
        raise ValueError(
            f"{rule} with param_scale_mult=True multiplies each step by the RMS of the "
            "weights, which shrinks with width already and is zero for a μP readout; "
            f"for μP use {rule}(param_scale_mult=False), got a mup tree."
        )
