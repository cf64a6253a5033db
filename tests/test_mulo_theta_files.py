import hashlib
import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from helpers.theta_parts import RULE, assert_same, theta_of

import mulo
from mulo import _files
from mulo._thetas import card as cards
from mulo._thetas import tensor_files

PUBLIC = Path(__file__).parent / "golden" / "mulo_public_format"


def rewrite(directory, change=None, **changes):
    """Change the tensors or the card, and keep the checksums true."""
    path = directory / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    if change is not None:
        change(tensors)
    card = tensor_files.card_of(path.read_bytes(), "")
    path.write_bytes(tensor_files.pack(tensors, card | changes))


def card_beside(directory, **changes):
    """The same theta as another program would write it: the card beside alone."""
    path = directory / "model.safetensors"
    path.write_bytes(safetensors.numpy.save(safetensors.numpy.load_file(path)))
    card = json.loads((directory / "card.json").read_text())
    card["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (directory / "card.json").write_text(json.dumps(card | changes))


@pytest.fixture
def saved(tmp_path):
    return mulo.save(tmp_path / "runs" / "theta", RULE, theta_of(1))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_round_trip_gives_rule_and_theta_back_exactly(tmp_path, layers):
    rule = mulo.SmallFC(
        hidden_size=5,
        hidden_layers=layers,
        exp_mult=0.1,
        base_width=3.0,
        initial_momentum_decays=(0.5, 0.9),
        initial_adafactor_decays=(0.9, 0.99),
    )
    theta = theta_of(3, rule)
    loaded = mulo.load(mulo.save(tmp_path / "theta", rule, theta))
    assert loaded.rule == rule
    assert_same(loaded.theta, theta)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(loaded.theta))


def test_tensors_carry_the_names_of_the_public_checkpoint(saved):
    tensors = safetensors.numpy.load_file(saved / "model.safetensors")
    public = safetensors.numpy.load_file(PUBLIC / "model.safetensors")
    assert set(tensors) == set(public) | set(cards.DECAYS)
    assert tensors["network.input.weight"].shape == (4, 39)
    expected = np.asarray(theta_of(1)["nn"]["w0"]).T
    np.testing.assert_array_equal(tensors["network.input.weight"], expected)


def test_card_says_what_the_theta_is(tmp_path):
    info = {
        "license": "Apache-2.0",
        "meta_training": {
            "steps": np.int32(5),
            "loss": jnp.float32(0.5),
            "worst": float("nan"),
            "widths": (32, 64),
            "workdir": Path("runs/x"),
        },
    }
    directory = mulo.save(tmp_path, RULE, theta_of(1), card=info)
    card = json.loads((directory / "card.json").read_text())
    model = (directory / "model.safetensors").read_bytes()
    assert card["architecture"] == "SmallFC"
    assert card["config"]["hidden_size"] == 4
    assert card["feature_version"] == 1
    assert card["base_width"] == card["config"]["base_width"] == 8.0
    assert card["factored_dims"] == "stable argsort"
    assert card["sha256"] == hashlib.sha256(model).hexdigest()
    assert card["license"] == "Apache-2.0"
    assert card["meta_training"] == {
        "steps": 5,
        "loss": 0.5,
        "worst": "nan",
        "widths": [32, 64],
        "workdir": "runs/x",
    }
    assert mulo.load(directory).card == card


def test_the_safetensors_file_is_enough(saved, tmp_path):
    assert_same(mulo.load(saved / "model.safetensors").theta, theta_of(1))
    alone = tmp_path / "best.safetensors"
    shutil.copy(saved / "model.safetensors", alone)
    loaded = mulo.load(str(alone))
    assert loaded.rule == RULE
    assert_same(loaded.theta, theta_of(1))
    content = bytearray(alone.read_bytes())
    content[-1] ^= 1
    alone.write_bytes(content)
    with pytest.raises(ValueError, match="corrupted"):
        mulo.load(alone)
    alone.write_bytes((PUBLIC / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"has no card: neither card\.json nor"):
        mulo.load(alone)


def test_equal_thetas_and_cards_make_equal_bytes(saved, tmp_path):
    model = (saved / "model.safetensors").read_bytes()
    again = mulo.save(tmp_path / "again", RULE, theta_of(1))
    assert (again / "model.safetensors").read_bytes() == model
    # The library's own order of metadata differs from process to process.
    length = int.from_bytes(model[:8], "little")
    header = json.loads(model[8 : 8 + length])
    assert next(iter(header)) == "__metadata__"
    keys = ["mulo_card", "card_sha256", "data_sha256"]
    assert list(header["__metadata__"]) == keys
    assert length % 8 == 0
    with safetensors.safe_open(saved / "model.safetensors", "np") as file:
        assert file.metadata() == header["__metadata__"]


@pytest.mark.parametrize("cut", [0, 4, 200, -1])
def test_truncated_weights_are_an_error_with_and_without_card(saved, cut):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"model\.safetensors.* (sha256|not a whole)"):
        mulo.load(saved)
    (saved / "card.json").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors.* (sha256|not a whole)"):
        mulo.load(saved)


@pytest.mark.parametrize("part", ["weights", "card"])
def test_one_flipped_bit_is_an_error(saved, part):
    path = saved / "model.safetensors"
    content = bytearray(path.read_bytes())
    where = content.index(b"step_mult") + 12 if part == "card" else -7
    content[where] ^= 1
    path.write_bytes(content)
    message = rf"model\.safetensors: the {part} do.* not have the sha256 .* corrupted"
    with pytest.raises(ValueError, match=message):
        mulo.load(saved)


def test_the_card_beside_is_a_copy_that_nothing_depends_on(saved):
    card = mulo.load(saved).card
    assert json.loads((saved / "card.json").read_text()) == card
    (saved / "card.json").write_text(json.dumps(card | {"sha256": "0"}))
    assert mulo.load(saved).card == card
    (saved / "card.json").write_text("{")
    with pytest.warns(UserWarning, match=r"card\.json is not valid JSON.* people"):
        assert mulo.load(saved).card == card
    (saved / "card.json").unlink()
    assert mulo.load(saved).card == card


def test_a_copy_of_the_card_that_was_edited_is_warned_of_once(saved):
    card = mulo.load(saved).card
    config = card["config"] | {"step_mult": 1.0}
    edited = card | {"config": config, "license": "MIT", "note": None}
    del edited["git_commit"]
    (saved / "card.json").write_text(json.dumps(edited))
    message = (
        r"/card\.json differs from the card inside .*/model\.safetensors in config, "
        r"git_commit, license, note\. .*write both with mulo\.save\(.*delete card\.json"
    )
    with pytest.warns(UserWarning, match=message) as said:
        loaded = mulo.load(saved)
    assert [warning.filename for warning in said] == [__file__]
    assert loaded.card == card
    assert loaded.rule == RULE
    # The card of that directory is no card of another file in it.
    shutil.copy(saved / "model.safetensors", saved / "other.safetensors")
    assert mulo.load(saved / "other.safetensors").card == card


def test_a_file_of_before_has_no_checksum_of_its_card(saved):
    path = saved / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    del header["__metadata__"]["card_sha256"]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    # As a save that was interrupted left it: the card of other weights, and this one's.
    own = mulo.load(saved).card
    both = own | {"sha256": "0" * 64, "run": "new", "previous": own}
    (saved / "card.json").write_text(json.dumps(both))
    loaded = mulo.load(saved)
    assert loaded.rule == RULE
    assert "run" not in loaded.card
    assert_same(loaded.theta, theta_of(1))


def test_a_card_beside_weights_that_hold_none_must_be_theirs(saved):
    card_beside(saved, run="x")
    loaded = mulo.load(saved)
    assert loaded.rule == RULE
    assert loaded.card["run"] == "x"
    assert_same(loaded.theta, theta_of(1))
    card_beside(saved, sha256="0" * 64)
    with pytest.raises(ValueError, match=r"model\.safetensors has sha256 .* corrupted"):
        mulo.load(saved)


@pytest.mark.parametrize("form", [rewrite, card_beside])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "SmallFD"}, r"did you mean 'SmallFC'\? Known: SmallFC"),
        ({"feature_version": 99}, "feature_version 99 of SmallFC is not known"),
        ({"factored_dims": "argsort"}, "factored_dims must be 'stable argsort'"),
        ({"base_width": 1.0}, "base_width is 1.0 and config.base_width is 8.0"),
        ({"config": {"hiden_size": 4}}, r"no setting 'hiden_size'; did you mean"),
        ({"config": {"hidden_size": 4}}, "config lacks 'hidden_layers'"),
        ({"config": None}, "config must be an object"),
    ],
)
def test_a_card_that_does_not_fit_is_an_error(saved, changes, message, form):
    form(saved, **changes)
    with pytest.raises(ValueError, match=message):
        mulo.load(saved)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_size": 8}, r"'network\.input\.weight' must have shape \(8, 39\)"),
        ({"hidden_layers": 3}, r"lacks tensor 'network\.linear_1\.weight'"),
        ({"hidden_size": 0}, "hidden_size"),
        # Sizes whose arrays, and depths whose layers, nobody could hold.
        ({"hidden_size": 10**9}, r"model\.safetensors: hidden_size of SmallFC is 10+,"),
        ({"hidden_layers": 10**10}, r"safetensors: hidden_layers of .* holds 9 arrays"),
    ],
)
def test_weights_of_another_architecture_name_the_tensor(saved, config, message):
    card = json.loads((saved / "card.json").read_text())
    rewrite(saved, config=card["config"] | config)
    with pytest.raises(ValueError, match=message):
        mulo.load(saved)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"step_mult": "0.1"}, "step_mult must be a number and be finite and > 0, got"),
        ({"exp_mult": None}, "exp_mult must be a number and be finite, got None"),
        ({"exp_mult": True}, "exp_mult must be a number and be finite, got True"),
        ({"hidden_size": [4]}, r"hidden_size must be an integer >= 1, got \(4,\)"),
        ({"initial_rms_decays": 0.9}, "initial_rms_decays must be a list of numbers"),
        ({"initial_rms_decays": ["0.9"]}, r"initial_rms_decays must lie in \[0, 1\)"),
    ],
)
def test_settings_of_another_type_name_the_card_and_the_field(saved, config, message):
    card = json.loads((saved / "card.json").read_text())
    rewrite(saved, config=card["config"] | config)
    with pytest.raises(ValueError, match=rf"card of .*model\.safetensors: {message}"):
        mulo.load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("rms_decays"), "lacks tensor 'rms_decays'"),
        (lambda t: t.update(rms_decay=t["rms_decays"]), "did you mean 'rms_decays'"),
        (
            lambda t: t.update(rms_decays=t["rms_decays"].astype(np.float64)),
            "'rms_decays' must be float32, got float64",
        ),
        (
            lambda t: t.update(rms_decays=t["rms_decays"] * np.nan),
            "'rms_decays' has NaN",
        ),
    ],
)
def test_bad_tensors_are_named(saved, change, message):
    rewrite(saved, change)
    with pytest.raises(ValueError, match=message):
        mulo.load(saved)


@pytest.mark.parametrize("text", ['{"architecture": "Sma', "[" * 100_000])
def test_a_card_that_is_not_json_is_an_error(saved, text):
    card_beside(saved)
    (saved / "card.json").write_text(text)
    with pytest.raises(ValueError, match=r"card\.json is not valid JSON"):
        mulo.load(saved)


@pytest.mark.parametrize(
    ("theta", "card", "message"),
    [
        (theta_of(1) | {"rms_decays": jnp.zeros(2)}, {}, "rms_decays"),
        (theta_of(1) | {"rms_decays": jnp.array([np.inf])}, {}, "rms_decays"),
        (theta_of(1), {"sha256": "0"}, r"card\['sha256'\] is written by mulo\.save"),
        (theta_of(1), {"task": object()}, r"card\['task'\] must have a JSON form"),
    ],
)
def test_a_refused_save_leaves_what_was_there(saved, theta, card, message):
    with pytest.raises(ValueError, match=message):
        mulo.save(saved, RULE, theta, card=card)
    assert_same(mulo.load(saved).theta, theta_of(1))
    assert sorted(os.listdir(saved)) == ["card.json", "model.safetensors"]


class CrashError(Exception):
    pass


@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_crash_between_any_two_writes_leaves_old_or_new_never_a_mixture(
    tmp_path, monkeypatch, writes, over
):
    other = mulo.SmallFC(hidden_size=4, step_mult=0.5)  # Same shapes, another rule.
    if over:
        mulo.save(tmp_path, RULE, theta_of(1), card={"run": "old"})
    done = []

    def replace(path, content, original=_files.write):
        if len(done) == writes:
            raise CrashError
        done.append(path.name)
        original(path, content)

    monkeypatch.setattr(_files, "write", replace)
    try:
        mulo.save(tmp_path, other, theta_of(2), card={"run": "new"})
    except CrashError:
        pass
    monkeypatch.undo()

    if not over and writes < 1:
        with pytest.raises(ValueError, match=r"holds no model\.safetensors"):
            mulo.load(tmp_path)
    else:
        loaded = mulo.load(tmp_path)
        new = writes >= 1
        assert loaded.rule == (other if new else RULE)
        assert loaded.card["run"] == ("new" if new else "old")
        assert_same(loaded.theta, theta_of(2 if new else 1))
    # And the next save starts from there.
    mulo.save(tmp_path, RULE, theta_of(3))
    assert_same(mulo.load(tmp_path).theta, theta_of(3))
    assert sorted(os.listdir(tmp_path)) == ["card.json", "model.safetensors"]


@pytest.mark.parametrize("reads", [0, 1])
def test_a_reader_that_meets_a_save_halfway_gets_old_or_new(saved, monkeypatch, reads):
    read, seen = Path.read_bytes, []

    def read_bytes(path):
        if len(seen) == reads:
            monkeypatch.undo()
            mulo.save(saved, RULE, theta_of(2), card={"run": "new"})
        seen.append(path.name)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    loaded = mulo.load(saved)
    assert seen == ["model.safetensors", "card.json"][: 1 + reads]
    assert loaded.card.get("run") == (None if reads else "new")
    assert_same(loaded.theta, theta_of(1 if reads else 2))


def test_a_failed_write_leaves_no_temporary_file(saved, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*model\.saf"):
        mulo.save(saved, RULE, theta_of(2))
    monkeypatch.undo()
    assert sorted(os.listdir(saved)) == ["card.json", "model.safetensors"]
    assert_same(mulo.load(saved).theta, theta_of(1))
