"""The scripts of examples/: what they print, their μP, and that they agree."""

import importlib
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import mulo

CHECKPOINTS = pathlib.Path(__file__).parent.parent / "checkpoints"
EXAMPLES = ("linen", "nnx", "equinox")


def example(name):
    if name == "equinox":
        pytest.importorskip("equinox", reason="equinox comes with the extra dev")
    return importlib.import_module(f"examples.train_{name}")


def params_of(name, width=128):
    """The parameters of an example's model under μP."""
    module, key = example(name), jax.random.key(0)
    if name == "linen":
        return module.MLP(width).init(key, jnp.zeros((1, 64)))
    if name == "nnx":
        return nnx.to_pure_dict(nnx.state(module.MLP(width), nnx.Param))
    return module.parameters(module.MLP(key, width))


def scalings_of(name):
    layout = "out_in" if name == "equinox" else "in_out"
    return mulo.mup.infer(params_of(name, 32), params_of(name), layout=layout)


@pytest.fixture(scope="module")
def nominal(tmp_path_factory):
    """A directory with the theta of LearnedMuon that nobody has meta-trained."""
    directory = tmp_path_factory.mktemp("theta") / "nominal"
    rule = mulo.LearnedMuon()
    card = {"parametrization": "mup"}
    mulo.save(directory, rule, rule.init(jax.random.key(0)), card=card)
    return directory


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_trains_all_three_and_prints_what_it_returns(name, nominal, capsys):
    table = example(name).main([f"--theta={nominal}", "--steps=24", "--seed=1"])
    learned, tuned, untuned = table
    assert learned == str(nominal)
    assert re.fullmatch(r"AdamW 0\.(001|004|016), tuned", tuned)
    assert untuned == "AdamW 0.001, untuned"
    assert np.isfinite(list(table.values())).all()
    assert all(0.0 <= accuracy <= 1.0 for _, _, accuracy in table.values())
    assert table[tuned][1] <= table[untuned][1]
    # A readout of zeros begins at the loss of guessing.
    assert max(table[learned][:2]) < math.log(10)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "optimizer"
    for line, (label, (last, loss, accuracy)) in zip(lines, table.items(), strict=True):
        numbers = [f"{last:.4f}", f"{loss:.4f}", f"{accuracy:.1%}"]
        assert line.removeprefix(label).split() == numbers


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_model_of_an_example_starts_as_mup_wants_it(name):
    params = params_of(name)
    scalings = scalings_of(name)
    pairs = list(zip(jax.tree.leaves(params), jax.tree.leaves(scalings), strict=True))
    matrices = [(x, scaling) for x, scaling in pairs if x.ndim == 2]
    roles = sorted((s.role, s.fan_in, s.fan_out) for _, s in matrices)
    hidden = ("hidden", 128, 128)
    assert roles == [hidden, hidden, ("input", 64, 128), ("output", 128, 10)]
    for x, scaling in matrices:
        want = mulo.mup.init_std(scaling)
        np.testing.assert_allclose(np.std(x), want, rtol=0.05)
    assert not any(np.any(x) for x, _ in pairs if x.ndim == 1)


def test_equinox_and_nnx_take_the_same_steps_from_the_same_weights(nominal):
    eqx = pytest.importorskip("equinox", reason="equinox comes with the extra dev")
    train_nnx, train_equinox = example("nnx"), example("equinox")
    pretrained = mulo.load(nominal)

    def transform(name):
        return pretrained.transform(mup=scalings_of(name), num_steps=5)

    theirs = train_nnx.MLP()
    optimizer = nnx.Optimizer(theirs, transform("nnx"), wrt=nnx.Param)
    ours = eqx.tree_at(
        lambda model: [x.weight for x in (*model.layers, model.readout)],
        train_equinox.MLP(jax.random.key(0)),
        [x.kernel[...].T for x in (*theirs.layers, theirs.readout)],
    )
    tx = transform("equinox")
    state = tx.init(train_equinox.parameters(ours))
    data, _ = train_nnx.load_digits(0)
    losses = []
    for key in jax.random.split(jax.random.key(1), 5):
        wanted = train_nnx.step(theirs, optimizer, *data, key)
        ours, state, loss = train_equinox.step(ours, state, tx, *data, key)
        losses.append((float(loss), float(wanted)))
    assert losses[-1][1] < losses[0][1]
    np.testing.assert_allclose(*np.transpose(losses), rtol=1e-4)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_asks_for_the_released_theta_by_default(name, monkeypatch):
    def load(theta):
        raise LookupError(theta)

    monkeypatch.setattr(mulo, "load", load)
    with pytest.raises(LookupError, match=r"^mulo-m$"):
        example(name).main([])


def test_the_default_theta_loads_once_it_is_released():
    if not (CHECKPOINTS / "mulo-m").is_dir():
        pytest.skip("mulo-m is not released yet")
    pretrained = mulo.load("mulo-m")
    mup = scalings_of("linen")
    pretrained.transform(mup=mup, num_steps=300).init(params_of("linen"))
