import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
import safetensors.numpy
from helpers import full_compile, theta_parts

import mulo
from mulo._thetas import card
from mulo.mup import Scaling

PUBLIC = Path(__file__).parent / "golden" / "mulo_public_format"
CELO2 = mulo.Celo2(hidden_size=4)
ELO = mulo.ELO(hidden_size=4)


def theta_of(rule):
    theta = rule.init(jax.random.key(0))
    return jax.tree.map(lambda x: np.asarray(x) + np.float32(0.1), theta)


def celo2_tensors(theta):
    stack = theta["ff_mod_stack"]
    names = {f"w0__{i}": f"w0.{i}" for i in range(14)} | {"b0": "b0"}
    for i in (1, 2):
        names |= {f"w{i}": f"dense_w.{i - 1}", f"b{i}": f"dense_b.{i - 1}"}
    return {name: stack[ours] for ours, name in names.items()}


def elo_tensors(theta):
    tensors = {}
    for i, layer in enumerate(("input", "linear_0", "output")):
        weights = np.ascontiguousarray(theta["nn"][f"w{i}"].T)
        tensors[f"network.{layer}.weight"] = weights
        tensors[f"network.{layer}.bias"] = theta["nn"][f"b{i}"]
    return tensors


def write(directory, tensors):
    directory.mkdir(exist_ok=True)
    safetensors.numpy.save_file(tensors, directory / "model.safetensors")
    config = {"hidden_layers": 1, "hidden_size": 4, "input_size": 39}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def assert_same(got, want):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), got, want)


@pytest.mark.parametrize(
    ("rule", "tensors_of"), [(CELO2, celo2_tensors), (ELO, elo_tensors)]
)
def test_pylo_files_are_read_as_the_rule_that_is_given(tmp_path, rule, tensors_of):
    theta = theta_of(rule)
    loaded = mulo.load(write(tmp_path / "x", tensors_of(theta)), rule=rule)
    assert loaded.rule == rule
    assert_same(loaded.theta, jax.tree.map(jnp.asarray, theta))


def test_a_celo2_file_is_the_orthogonalized_form_unless_the_other_is_given(tmp_path):
    theta = theta_of(CELO2)
    directory = write(tmp_path / "x", celo2_tensors(theta))
    loaded = mulo.load(directory)
    assert loaded.rule == CELO2  # Of the sizes in the file, not of the defaults.
    assert_same(loaded.theta, jax.tree.map(jnp.asarray, theta))
    base = mulo.Celo2(hidden_size=4, orthogonalize=False)
    assert mulo.load(directory, rule=base).rule == base
    with pytest.raises(ValueError, match=r"has the layout of Celo2.*got ELO"):
        mulo.load(directory, rule=ELO)


def test_an_elo_file_without_a_rule_is_read_as_the_public_mulo(tmp_path):
    directory = write(tmp_path / "x", elo_tensors(theta_of(ELO)))
    with pytest.warns(UserWarning, match="holds no decays"):
        assert isinstance(mulo.load(directory).rule, mulo.SmallFC)


def test_damaged_files_name_the_leaf(tmp_path):
    tensors = celo2_tensors(theta_of(CELO2))
    with pytest.raises(ValueError, match=r"'ff_mod_stack/b0' must have shape \(8,\)"):
        mulo.load(write(tmp_path / "a", tensors), rule=mulo.Celo2())
    with pytest.raises(ValueError, match="holds a tensor 'extra'"):
        mulo.load(write(tmp_path / "b", tensors | {"extra": np.ones(1)}), rule=CELO2)
    bad = tensors | {"b0": np.full(4, np.nan, np.float32)}
    with pytest.raises(ValueError, match="'ff_mod_stack/b0' has NaN"):
        mulo.load(write(tmp_path / "c", bad), rule=CELO2)
    with pytest.raises(ValueError, match=r"safetensors: hidden_size must be .*got 0"):
        mulo.load(write(tmp_path / "e", tensors | {"b0": np.ones(0, np.float32)}))
    missing = {name: x for name, x in tensors.items() if name != "w0.13"}
    with pytest.raises(ValueError, match="lacks tensor 'ff_mod_stack/w0__13'"):
        mulo.load(write(tmp_path / "f", missing))
    lacking = elo_tensors(theta_of(ELO))
    del lacking["network.output.bias"]
    with pytest.raises(ValueError, match="lacks tensor 'nn/b2'"):
        mulo.load(write(tmp_path / "d", lacking), rule=ELO)


def pack(tree):
    """Flax's msgpack: arrays are extension type 1."""

    def array(x):
        content = (list(x.shape), x.dtype.name, x.tobytes())
        return msgpack.ExtType(1, msgpack.packb(content, use_bin_type=True))

    return msgpack.packb(jax.tree.map(array, tree), use_bin_type=True)


def test_flax_files_are_recognized_but_for_the_base_form_of_celo2(tmp_path):
    path = tmp_path / "theta.state"
    theta = theta_of(ELO)
    path.write_bytes(pack({"nn": {"~": theta["nn"]}}))
    loaded = mulo.load(path)
    assert loaded.rule == ELO
    assert_same(loaded.theta, jax.tree.map(jnp.asarray, theta))
    theta = theta_of(CELO2)
    path.write_bytes(pack({"ff_mod_stack": {"~": theta["ff_mod_stack"]}}))
    assert mulo.load(path).rule == CELO2
    base = mulo.Celo2(hidden_size=4, orthogonalize=False)
    loaded = mulo.load(path, rule=base)
    assert loaded.rule == base
    assert_same(loaded.theta, jax.tree.map(jnp.asarray, theta))


def test_public_layout_loads_with_published_decays_and_one_warning():
    with pytest.warns(UserWarning, match="holds no decays") as caught:
        loaded = mulo.load(PUBLIC)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert (loaded.rule.hidden_size, loaded.rule.hidden_layers) == (32, 2)
    assert (loaded.rule.step_mult, loaded.rule.base_width) == (0.01, 1.0)
    source = json.loads((PUBLIC / "trajectory.json").read_text())
    for name in card.DECAYS:
        np.testing.assert_allclose(loaded.theta[name], source[name], rtol=1e-7)
    tensors = safetensors.numpy.load_file(PUBLIC / "model.safetensors")
    weights = np.asarray(loaded.theta["nn"]["w1"])
    np.testing.assert_array_equal(weights.T, tensors["network.linear_0.weight"])


def test_public_layout_with_decays_of_its_own_warns_of_nothing(tmp_path):
    saved = mulo.save(tmp_path / "saved", theta_parts.RULE, theta_parts.theta_of(1))
    tensors = safetensors.numpy.load_file(saved / "model.safetensors")
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    config = {"hidden_layers": 1, "hidden_size": 4, "input_size": 39}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = mulo.load(tmp_path)
    assert_same(loaded.theta, theta_parts.theta_of(1))
    assert loaded.card["source"] == "public μLO layout"
    # A card inside the weights goes before a config beside them.
    shutil.copy(saved / "model.safetensors", tmp_path)
    assert mulo.load(tmp_path).rule == theta_parts.RULE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_size": 30}, "input_size must be 39"),
        ({"hidden_size": 16}, "'network.input.weight' must have shape"),
        ({"hidden_layers": "one"}, "'hidden_layers' must be an integer"),
        ({"hidden_layers": -1}, r"config\.json: 'hidden_layers' .* >= 0, got -1"),
        ({"hidden_size": True}, r"config\.json: 'hidden_size' .* >= 1, got True"),
        ({"hidden_layers": 10**10}, "hidden_layers of SmallFC is 10000000001, and"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*holds no decays")
def test_public_layout_with_a_wrong_config_is_an_error(tmp_path, change, message):
    shutil.copy(PUBLIC / "model.safetensors", tmp_path)
    config = json.loads((PUBLIC / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=message):
        mulo.load(tmp_path)


@pytest.mark.filterwarnings("ignore:.*holds no decays")
def test_public_layout_moves_parameters_as_pylo_does():
    recorded = np.load(PUBLIC / "trajectory.npz")
    names = [k.removeprefix("params/") for k in recorded if k.startswith("params/")]
    params: Any = {k: jnp.asarray(recorded[f"params/{k}"]) for k in names}
    scalings = {k: Scaling("input", 1, p.size) for k, p in params.items()}
    scalings["l1.weight"] = Scaling("hidden", 3, 192)  # width_mult 3 of its JSON.
    tx: Any = mulo.load(PUBLIC).transform(mup=scalings)
    state, update = tx.init(params), full_compile.jit(tx.update)
    moved = dict.fromkeys(names, 0.0)
    for step in range(8):
        grads = {k: jnp.asarray(recorded[f"grads/{k}"][step]) for k in names}
        updates, state = update(grads, state, params)
        params = {k: params[k] + updates[k] for k in names}
        for k in names:
            start, out = recorded[f"params/{k}"], recorded[f"out/{k}"][step]
            moved[k] = max(moved[k], np.abs(out - start).max())
            rounding = 2.4e-7 * np.maximum(np.abs(out), 1e-3) * (step + 1)
            assert (np.abs(params[k] - out) <= rounding + 1e-4 * moved[k]).all(), k
