import json

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
import safetensors.numpy

import mulo

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
