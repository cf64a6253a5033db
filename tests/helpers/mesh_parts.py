"""Optimizers on parameters sharded over four simulated devices.

``python -m helpers.mesh_parts CHECK …`` (in ``tests/``) prints what failed as JSON, by
check, an empty text where nothing did. It is a process of its own: the number of
devices cannot change once there are any.
"""

import functools
import json
import re
import sys
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import mulo
from helpers.contract_parts import NAMES, make

# By FSDP, by tensor parallelism on the output and on the input axis, and not at all;
# two matrices of one shape in different ways.
SHAPES = {"fsdp": (8, 4), "out": (8, 4), "in": (4, 6), "b": (8,), "c": (6,)}
SPECS = {
    "fsdp": PartitionSpec("data", None),
    "out": PartitionSpec(None, "model"),
    "in": PartitionSpec("model", None),
    "b": PartitionSpec("data"),
    "c": PartitionSpec(None),
}
AXES = {"data": 2, "model": 2}
FEW = ("out", "b")
# Written out per leaf, and slow to compile: compared on few leaves.
SLOW = (
    "small_fc",
    "annealed_fc",
    "elo",
    "celo2",
    "celo2_base",
    "velo",
    "celo",
    "lstm_ff",
)
# Compared on automatic axes too, where only ``init`` differs.
ON_AUTOMATIC_AXES = ("adam", "muon", "learned_muon")


def draw(seed, names=tuple(SHAPES)):
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(rng.standard_normal(SHAPES[name]), jnp.float32)
        for name in names
    }


def make_mesh(kind=AxisType.Explicit):
    return jax.make_mesh(tuple(AXES.values()), tuple(AXES), (kind,) * len(AXES))


def put(tree, mesh):
    return {
        k: jax.device_put(x, NamedSharding(mesh, SPECS[k])) for k, x in tree.items()
    }


def tail_of(state):
    """Pairs of the specs of matrices' copies in a state and of the matrices."""
    pairs = []
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        name = getattr(path[-1], "key", None)
        shape = SHAPES.get(name, ())
        if len(shape) > 1 and x.shape[-len(shape) :] == shape:
            spec = x.sharding.spec
            spec = (*spec, *(None,) * (len(x.shape) - len(spec)))
            own = (None,) * (len(spec) - len(shape)) + tuple(SPECS[name])
            pairs.append((tuple(spec), own))
    return pairs


def two_steps(name, place):
    """Parameters, the last updates, and the first and last state of a run."""
    tx, names = make(name, None), FEW if name in SLOW else tuple(SHAPES)
    params = place(draw(0, names))
    first = state = tx.init(params)

    @jax.jit
    def step(grads, state, params):
        updates, state = tx.update(grads, state, params, value=1.5)
        return optax.apply_updates(params, updates), updates, state

    updates = {}
    for seed in (1, 2):
        params, updates, state = step(place(draw(seed, names)), state, params)
    return params, updates, first, state


@functools.cache
def _without_a_mesh(name):
    return two_steps(name, lambda tree: tree)


def check_name(name, kind=AxisType.Explicit):
    """The run is that without a mesh; updates and state lie as the parameters."""
    mesh = make_mesh(kind)
    got = two_steps(name, lambda tree: put(tree, mesh))
    want = _without_a_mesh(name)
    for x, y in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)
    _, updates, first, last = got
    assert all(own == spec for own, spec in tail_of(first))
    if kind is AxisType.Explicit:
        assert all(own == spec for own, spec in tail_of(last))
        for leaf, update in updates.items():
            assert update.sharding == NamedSharding(mesh, SPECS[leaf]), leaf


def check_theta_and_loss_may_be_on_the_mesh():
    rule = mulo.SmallFC(hidden_size=4, hidden_layers=1)
    theta = rule.init(jax.random.key(0))

    @jax.jit
    def step(theta, grads, params, loss):
        tx = rule.transform(theta)
        return tx.update(grads, tx.init(params), params, value=loss)[0]

    grads, params = draw(1, FEW), draw(0, FEW)
    want = step(theta, grads, params, 1.0)
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        everywhere = NamedSharding(mesh, PartitionSpec())
        theta, loss = jax.device_put((theta, 1.0), everywhere)
        got = step(theta, put(grads, mesh), put(params, mesh), loss)
    for leaf in want:
        np.testing.assert_allclose(got[leaf], want[leaf], rtol=1e-4, atol=1e-7)
        assert got[leaf].sharding.spec == SPECS[leaf]


def check_masked_leaves_and_updates_without_params():
    mesh = make_mesh()
    mask = {name: name != "out" for name in SHAPES}
    tx = optax.masked(make("learned_muon", None), mask)

    def step(grads):
        return tx.update(grads, tx.init(grads))[0]

    want, got = (jax.jit(step)(x) for x in (draw(1), put(draw(1), mesh)))
    for leaf in want:
        np.testing.assert_allclose(got[leaf], want[leaf], rtol=1e-4, atol=1e-7)
        assert got[leaf].sharding.spec == SPECS[leaf]


def check_a_state_may_be_sharded_where_parameters_are_not():
    mesh = make_mesh()
    everywhere = NamedSharding(mesh, PartitionSpec())
    tx = make("learned_muon", None)
    params, grads = jax.device_put((draw(0), draw(1)), everywhere)
    state = tx.init(put(draw(0), mesh))
    updates, new = jax.jit(tx.update)(grads, state, params)
    assert all(x.sharding.is_fully_replicated for x in updates.values())
    assert tail_of(new)
    assert all(own == spec for own, spec in tail_of(new))


def check_outside_of_jit_it_is_the_same():
    mesh = make_mesh()
    tx = make("muon", None)
    params, grads = put(draw(0, FEW), mesh), put(draw(1, FEW), mesh)

    def step(grads, params):
        return tx.update(grads, tx.init(params), params)

    eager, jitted = step(grads, params), jax.jit(step)(grads, params)
    for x, y in zip(*map(jax.tree.leaves, (eager, jitted)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    for leaf, update in eager[0].items():
        assert update.sharding == NamedSharding(mesh, SPECS[leaf]), leaf


def check_rules_by_entry_gather_no_matrix():
    mesh = make_mesh()
    shape = (64, 32)
    rule = mulo.SmallFC()  # Large enough for matrix products.
    wide = rule.transform(rule.init(jax.random.key(0)))

    def largest(name, spec):
        """Entries of the largest result of a collective; 0 without any."""
        tx = wide if name == "small_fc of 32 units" else make(name, None)
        matrix = jax.device_put(jnp.ones(shape), NamedSharding(mesh, spec))
        step = jax.jit(lambda g, s, p: tx.update(g, s, p, value=1.0))
        program = step.lower(matrix, tx.init(matrix), matrix).compile().as_text()
        found = re.findall(
            r"= (.*) (?:all|reduce-scatter|collective)[a-z-]*\(", program
        )
        sizes = re.findall(r"\[([\d,]*)\]", " ".join(found))
        return max(
            (np.prod([int(n) for n in s.split(",") if n]) for s in sizes), default=0
        )

    for spec in (PartitionSpec("data", None), PartitionSpec(None, ("data", "model"))):
        for name in ("adam", "learned_adam"):
            assert largest(name, spec) == 0, (name, spec)
        # Sums of rows, a part from each of four devices.
        for name in ("small_fc", "small_fc of 32 units", "celo2_base"):
            assert 0 < largest(name, spec) <= 4 * 64, (name, spec)
        assert largest("muon", spec) >= 32 * 32, spec


CHECKS = {name: functools.partial(check_name, name) for name in NAMES}
CHECKS |= {
    f"{name} on automatic axes": functools.partial(check_name, name, AxisType.Auto)
    for name in ON_AUTOMATIC_AXES
}
CHECKS |= {
    name.removeprefix("check_"): function
    for name, function in list(globals().items())
    if name.startswith("check_") and name != "check_name"
}


def main(chosen):
    jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    failures = {}
    for name in chosen:
        try:
            CHECKS[name]()
            failures[name] = ""
        except Exception:
            failures[name] = traceback.format_exc()
    print(json.dumps(failures))


if __name__ == "__main__":
    main(sys.argv[1:])
