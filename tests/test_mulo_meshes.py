"""Every optimizer on parameters sharded over a mesh of explicit axes."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import optax
import pytest
from helpers.contract_parts import NAMES, make
from helpers.mesh_parts import AXES, CHECKS, SHAPES, SPECS, tail_of
from jax.sharding import AbstractMesh, AxisType, NamedSharding

ROOT = pathlib.Path(__file__).parents[1]
# Of no matrix a copy in its shape: no state, stacks of blocks.
WITHOUT_COPIES = ("sgd", "shampoo", "soap")


@pytest.mark.parametrize("name", NAMES)
def test_state_and_updates_have_the_types_of_the_parameters(name):
    mesh = AbstractMesh(
        tuple(AXES.values()), tuple(AXES), axis_types=(AxisType.Explicit,) * len(AXES)
    )
    params = {
        leaf: jax.ShapeDtypeStruct(
            shape, jnp.float32, sharding=NamedSharding(mesh, SPECS[leaf])
        )
        for leaf, shape in SHAPES.items()
    }
    tx = make(name, None)

    def run(params):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(params, state, params, value=1.0)
            # Refused if not of the types they had.
            return (optax.apply_updates(params, updates), state), updates

        state = tx.init(params)
        (params, _), updates = jax.lax.scan(step, (params, state), length=2)
        return state, updates

    with jax.sharding.use_abstract_mesh(mesh):
        state, updates = jax.eval_shape(run, params)
    for leaf, update in updates.items():
        assert tuple(update.sharding.spec) == (None, *SPECS[leaf])
    copies = tail_of(state)
    assert bool(copies) == (name not in WITHOUT_COPIES)
    assert all(own == spec for own, spec in copies)


@pytest.fixture(scope="module")
def failures(request):
    own = [x for x in request.session.items if x.path == request.path]
    params = [x.callspec.params for x in own]
    chosen = [x["check"] for x in params if "check" in x]
    done = subprocess.run(
        [sys.executable, "-m", "helpers.mesh_parts", *chosen],
        cwd=ROOT / "tests",
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("check", CHECKS)
def test_on_four_devices(check, failures):
    assert not failures[check], failures[check]
