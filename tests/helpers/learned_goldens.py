"""Golden trajectories of learned optimizers with an LSTM, and following them."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers import full_compile
from helpers.goldens import GOLDEN as GOLDEN
from helpers.goldens import read as read
from mulo._thetas import msgpack


def public_weights() -> pathlib.Path:
    """Folder of public weights; skips the test where there is none."""
    given = os.environ.get("MULO_PUBLIC_WEIGHTS")
    beside = pathlib.Path(__file__).parents[3] / "shared" / "public_weights"
    folder = pathlib.Path(given) if given else beside
    if not folder.is_dir():
        pytest.skip(
            f"no public weights in {folder}; set MULO_PUBLIC_WEIGHTS to their folder"
        )
    return folder


def theta_of(leaves):
    """Architecture and theta of a golden's flat public names."""
    tree = {}
    for path, leaf in leaves.items():
        # Module names of haiku hold slashes: all but the last part are one level or
        # two, and the reader takes both.
        *names, last = [part for part in path.split("/") if part != "~"]
        node = tree
        for name in names:
            node = node.setdefault(name, {})
        if last == "lstm_init_state":
            leaf = {"hidden": leaf[0], "cell": leaf[1]}
        node[last] = leaf
    rnn = tree["rnn_params"]
    rnn["rnn"] = rnn["rnn"].pop("linear")
    tree["ffmod_params"] = tree.get("ffmod_params", {}).get("mlp")
    if tree["ffmod_params"] is None:
        del tree["ffmod_params"]
    rule, theta = msgpack.from_public(tree, "golden")
    return rule, jax.tree.map(jnp.asarray, theta)


def assert_follows(tx, arrays, steps, share):
    """Run the golden gradients and compare parameters after every step.

    ``share``: allowed error as a part of the largest distance from the start so far.
    """
    start = params = {k: jnp.asarray(p) for k, p in arrays["params"].items()}
    state = tx.init(params)
    update = full_compile.jit(tx.update)
    moved = dict.fromkeys(params, 0.0)
    for step in range(steps):
        grads = {name: g[step] for name, g in arrays["grads"].items()}
        loss = arrays["loss"][""][step]
        updates, state = update(grads, state, params, value=loss)
        params = optax.apply_updates(params, updates)
        for name, p in params.items():
            want = arrays["out"][name][step]
            moved[name] = max(moved[name], float(np.abs(want - start[name]).max()))
            tolerance = 2.4e-7 * np.maximum(np.abs(want), 1e-3) * (step + 1)
            error = np.abs(np.asarray(p) - want)
            assert np.all(error <= tolerance + share * moved[name]), (name, step)
    assert all(moved.values())
