"""google/learned_optimization as a peer: its learned rules, one update at a time.

Nothing of it is copied: the classes are imported from whatever checkout is on
``PYTHONPATH``, with the published sizes, as ours have them by default.
"""

import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import _peer_learned_optimization as peer

# Our names of the rules it has too: its class, where it is, and its arguments.
_CLASSES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "small_fc": (
        "learned_optimizers.adafac_mlp_lopt",
        "AdafacMLPLOpt",
        {"hidden_size": 32},
    ),
    # Its form for few hidden units: the network written out in scalars.
    "small_fc hidden 4": (
        "learned_optimizers.adafac_mlp_lopt",
        "AdafacMLPLOpt",
        {"hidden_size": 4, "concat_weights": False},
    ),
    "lstm_ff": ("learned_optimizers.rnn_mlp_lopt", "RNNMLPLOpt", {}),
    "velo": (
        "research.general_lopt.hyper_v2",
        "HyperV2",
        {
            "lstm_hidden_size": 512,
            "param_inits": 256,
            "use_bugged_loss_features": False,
        },
    ),
}
NAMES = tuple(_CLASSES)


def why_missing() -> str | None:
    """None where the peer can be imported, else why not and how to add it."""
    reason = peer.why_missing()
    return reason and f"{reason}\n{peer.HOW_TO_ADD}"


def make(
    name: str, num_steps: int
) -> tuple[Callable[[Any], Any], Callable[[Any, Any, Any], Any]]:
    """Make one of the peer's optimizers.

    Args:
      name: One of `NAMES`.
      num_steps: Length of the run that it is told.

    Returns:
      ``init(params) -> state`` and ``update(grads, state, params) -> (new params,
      state)``; its state holds the parameters, and those given are not used.
    """
    module, cls, arguments = _CLASSES[name]
    lopt = getattr(importlib.import_module(f"learned_optimization.{module}"), cls)(
        **arguments
    )
    theta = lopt.init(jax.random.key(0))
    opt = lopt.opt_fn(theta, is_training=True)

    def init(params):
        return opt.init(params, num_steps=num_steps, key=jax.random.key(0))

    def update(grads, state, params):
        del params
        state = opt.update(state, grads, jnp.ones(()), key=jax.random.key(0))
        return opt.get_params(state), state

    return init, update
