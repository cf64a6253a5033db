import dataclasses

import jax
import msgpack
import numpy as np
import pytest
import safetensors.numpy
from helpers import learned_goldens as goldens

import mulo
from mulo._thetas import files

VELO = mulo.VeLO(lstm_hidden_size=4, param_inits=3)
RULES = {
    "velo": VELO,
    "celo": mulo.Celo(lstm_hidden_size=4),
    "celo_adam": mulo.CeloAdam(lstm_hidden_size=4),
    "lstm_ff": mulo.LSTMFF(hidden_size=3, lstm_hidden_size=4),
    "small_fc": mulo.SmallFC(hidden_size=4),
}
WRAPPERS = {
    "bare": lambda theta: theta,
    "checkpoint": lambda theta: {"params": theta, "gen_id": "a", "step": 7},
    "tuple": lambda theta: {"0": theta, "1": "", "2": 0},
}


def theta_of(rule, seed=0):
    leaves, treedef = jax.tree.flatten(jax.eval_shape(rule.init, jax.random.key(0)))
    rng = np.random.default_rng(seed)
    return treedef.unflatten(
        [rng.normal(size=x.shape).astype(np.float32) for x in leaves]
    )


def public_names(theta):
    """The same theta under haiku's names."""
    theta = dict(theta)
    for name in ("ff_mod_stack", "nn"):
        if name in theta:
            theta[name] = {"~": theta[name]}
    for name in ("rnn_to_ff", "rnn_to_in"):
        if f"{name}_params" in theta:
            theta[f"{name}_params"] = {name: theta[f"{name}_params"]}
    if "ffmod_params" in theta:
        layers = theta["ffmod_params"]
        theta["ffmod_params"] = {f"mlp/~/{k}": layer for k, layer in layers.items()}
    if "rnn_params" in theta:
        rnn = dict(theta["rnn_params"])
        theta["rnn_params"] = {"rnn/linear": rnn.pop("rnn"), **rnn}
    return theta


def pack(tree):
    """Flax's msgpack: arrays are extension type 1."""

    def array(x):
        content = (list(x.shape), x.dtype.name, x.tobytes())
        return msgpack.ExtType(1, msgpack.packb(content, use_bin_type=True))

    return msgpack.packb(tree, default=array, use_bin_type=True)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", RULES)
def test_flax_msgpack_is_told_apart_by_its_names_and_shapes(tmp_path, name, wrapper):
    theta = theta_of(RULES[name])
    path = tmp_path / "params"
    path.write_bytes(pack(WRAPPERS[wrapper](public_names(theta))))
    loaded = mulo.load(path)
    assert loaded.rule == RULES[name]
    assert_same(loaded.theta, theta)
    assert len(loaded.card["sha256"]) == 64


def test_what_flax_itself_writes_is_read():
    serialization = pytest.importorskip("flax.serialization")
    theta = theta_of(VELO)
    content = serialization.msgpack_serialize(public_names(theta))
    loaded = files.read("flax msgpack", content, {}, "params")
    assert loaded.rule == VELO
    assert_same(loaded.theta, theta)


def test_the_published_celo_file_is_read_and_saved_as_ours(tmp_path):
    loaded = mulo.load(goldens.public_weights() / "celo" / "theta.state")
    again = mulo.load(mulo.save(tmp_path, loaded.rule, loaded.theta))
    assert again.rule == loaded.rule == mulo.Celo()
    assert_same(again.theta, loaded.theta)


@pytest.mark.parametrize("name", RULES)
def test_every_architecture_is_saved_and_loaded(tmp_path, name):
    rule = dataclasses.replace(RULES[name], step_mult=0.25, base_width=8.0)
    theta = theta_of(rule)
    loaded = mulo.load(mulo.save(tmp_path, rule, theta))
    assert loaded.rule == rule
    assert_same(loaded.theta, theta)


def test_settings_come_from_the_config_beside_the_file_or_from_the_caller(tmp_path):
    path = tmp_path / "params"
    path.write_bytes(pack(public_names(theta_of(VELO))))
    (tmp_path / "config.gin").write_text(
        "import learned_optimization.research.general_lopt.hyper_v2\n"
        "learned_opt = @HyperV2()\n"
        "HyperV2.lstm_hidden_size = 4\n"
        "hyper_v2.HyperV2.param_inits = \\\n    3  # Banks.\n"
        "scope/HyperV2.exp_mult = 0.5\n"
        "HyperV2.with_g = True\n"
        "# HyperV2.step_mult = 9.0\n"
        "HyperV2.summarize_all_control = True\n"
    )
    # What the file does not mention is at the default of the public class.
    want = dataclasses.replace(VELO, exp_mult=0.5, use_bugged_loss_features=True)
    assert mulo.load(path).rule == want
    given = dataclasses.replace(VELO, use_bugged_next_lstm_state=True)
    assert mulo.load(path, rule=given).rule == given
    (tmp_path / "config.gin").write_text("HyperV2.rnn_state_decay = 0.1\n")
    with pytest.raises(ValueError, match=r"rnn_state_decay = 0.1 is not implemented"):
        mulo.load(path)
    (tmp_path / "config.gin").write_text("HyperV2.step_mult = @f()\n")
    with pytest.raises(ValueError, match="step_mult must be a plain value"):
        mulo.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"HyperV2.step_mult = '0.1'", "HyperV2.step_mult must be a number and be"),
        (b"HyperV2.exp_mult = None", "HyperV2.exp_mult must be a number and be"),
        (b"HyperV2.param_scale_mult = 'no'", "param_scale_mult must be True or False"),
        (b"HyperV2.param_inits = True", "HyperV2.param_inits must be an integer >= 1"),
        (b"HyperV2.exp_mult = {[]: 1}", "HyperV2.exp_mult must be a plain value"),
        (b"# caf\xe9", "is no UTF-8 text .*can't decode byte 0xe9"),
    ],
)
def test_settings_that_are_none_name_the_file(tmp_path, content, message):
    path = tmp_path / "params"
    path.write_bytes(pack(public_names(theta_of(VELO))))
    (tmp_path / "config.gin").write_bytes(content)
    with pytest.raises(ValueError, match=f"config.gin of {path}.*{message}"):
        mulo.load(path)


def test_settings_may_be_written_with_line_ends_of_two_characters(tmp_path):
    path = tmp_path / "params"
    path.write_bytes(pack(public_names(theta_of(VELO))))
    (tmp_path / "config.gin").write_bytes(
        b"HyperV2.lstm_hidden_size = 4\r\nHyperV2.param_inits = \\\r\n    3\r\n"
    )
    assert mulo.load(path).rule.param_inits == 3


def test_depths_that_nobody_could_hold_are_refused_before_they_are_laid_out(tmp_path):
    path = tmp_path / "params"
    path.write_bytes(pack(public_names(theta_of(VELO))))
    (tmp_path / "config.gin").write_text("HyperV2.ff_hidden_layers = 10000000000\n")
    with pytest.raises(ValueError, match="params: ff_hidden_layers of VeLO is 100000"):
        mulo.load(path)
    with pytest.raises(ValueError, match="lstm_hidden_size of Celo is 1000000000, and"):
        mulo.load(path, rule=mulo.Celo(lstm_hidden_size=10**9))


def pylo_files(theta):
    """The two files PyLO would hold this theta in, scratch copies included."""
    rnn, bank = theta["rnn_params"], theta["ff_mod_stack"]
    names = {
        "linear": "mix_layer1",
        "linear_1": "mix_layer2",
        "linear_2": "final_mix_layer",
        "rnn": "lstm.linear",
        "rnn_to_controls": "rnn_to_controls",
        "step_size": "step_size",
    }
    first = {}
    for ours, theirs in names.items():
        first[f"{theirs}.weight"] = rnn[ours]["w"].T
        first[f"{theirs}.bias"] = rnn[ours]["b"]
    first["lstm_init_state.0"] = theta["lstm_init_state"]["hidden"]
    first["lstm_init_state.1"] = theta["lstm_init_state"]["cell"]
    weights = np.concatenate([bank[f"w0__{i}"] for i in range(14)], axis=1)
    second = {
        "input_weights_": weights.transpose(0, 2, 1),
        "input_bias_": bank["b0"],
        "hidden_weights_.0": bank["w1"].transpose(0, 2, 1),
        "hidden_bias_.0": bank["b1"],
        "output_weights_": bank["w2"].transpose(0, 2, 1),
        "output_bias_": bank["b2"],
        "input_weights": np.zeros((4, 30), np.float32),
    }
    return [{k: np.ascontiguousarray(x) for k, x in d.items()} for d in (first, second)]


def test_pylos_pair_of_velo_files_is_read(tmp_path):
    theta = theta_of(VELO)
    rnn, mlp = pylo_files(theta)
    for name, tensors in (("VeLO_RNN", rnn), ("VeLO_MLP", mlp)):
        (tmp_path / name).mkdir()
        safetensors.numpy.save_file(tensors, tmp_path / name / "model.safetensors")
    loaded = mulo.load(tmp_path)
    assert loaded.rule == VELO
    assert_same(loaded.theta, theta)
    del mlp["output_bias_"]
    safetensors.numpy.save_file(mlp, tmp_path / "VeLO_MLP" / "model.safetensors")
    with pytest.raises(ValueError, match=r"VeLO_MLP.* lacks tensor 'output_bias_'"):
        mulo.load(tmp_path)


def test_damaged_and_foreign_files_are_refused_by_name(tmp_path):
    theta = theta_of(VELO)
    whole = pack(public_names(theta))
    path = tmp_path / "params"

    def refused(content, message):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            mulo.load(path)

    refused(whole[:-5], "params is not a whole flax msgpack file")
    refused(whole + b"x", "params is not a whole flax msgpack file")
    refused(pack({"a": np.ones(3)}), "no theta of a known optimizer; it holds a")
    refused(msgpack.packb({"a": msgpack.ExtType(5, b"")}), "extension type 5")
    refused(pack({"a": np.ones(3, ">f8")}), "known optimizer")
    refused(pack({"a": np.array(["x"])}), "dtype 'str")
    text = {"nn": {"w0": "x", "b0": np.ones(4)}}
    refused(pack(text), "params: leaf 'nn/w0' must hold numbers, got 'x'")
    empty = theta_of(RULES["small_fc"])
    empty["nn"]["b0"] = np.zeros(0, np.float32)
    refused(pack(empty), r"params: leaf 'nn/b0' has no entries, shape \(0,\)")
    flat = {k: np.ones(3, np.float32) for k in ("w0", "b0")}
    refused(pack({"nn": flat}), "params is no theta of a known.*hidden_layers must")
    bad = public_names(theta)
    bad["lstm_init_state"] = {
        "hidden": np.full((1, 4), np.nan),
        "cell": np.ones((1, 4)),
    }
    refused(pack(bad), "'lstm_init_state/hidden' has NaN")
    del bad["rnn_params"]["step_size"]
    refused(pack(bad), "lacks tensor 'rnn_params/step_size/b'")
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="'ff_mod_stack/b0' must have shape"):
        mulo.load(path, rule=mulo.VeLO())
    with pytest.raises(ValueError, match="rule is for flax msgpack files"):
        mulo.load(tmp_path, rule=VELO)
