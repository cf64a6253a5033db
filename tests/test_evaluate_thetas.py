"""Several learned optimizers in one sweep: which theta is whose, and bad input."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest

import mulo
from evaluate import optimizers, thetas

ROOT = Path(__file__).parent.parent
NAMES = ("mulo", "mu_small_fc", "small_fc", "mu_velo", "velo", "adamw")


def save(folder, name):
    made = optimizers.random_pretrained(name, seed=3)
    mulo.save(folder, made.rule, made.theta)
    return str(folder)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("theta")
    return {name: save(folder / name, name) for name in ("small_fc", "velo")}


def sources(*args):
    return {name: theta.source for name, theta in thetas.assign(*args).items()}


def test_a_theta_without_a_name_is_for_all_mup_optimizers_of_its_rule(saved):
    where = saved["small_fc"]
    assert sources(NAMES, [where]) == {"mulo": where, "mu_small_fc": where}
    assert sources(NAMES, [], where) == {"small_fc": where}


def test_named_thetas_go_where_they_are_named(saved):
    small_fc, velo = saved["small_fc"], saved["velo"]
    given = [f"mulo={velo},velo={velo}", "mu_velo=random", small_fc]
    assert sources(NAMES, given) == {
        "mulo": velo,
        "velo": velo,
        "mu_velo": "random",
        "mu_small_fc": small_fc,
    }
    found = thetas.assign(NAMES, given)
    assert isinstance(found["mulo"].pretrained.rule, mulo.VeLO)
    loaded = optimizers.fingerprint(found["velo"].pretrained)
    made = optimizers.random_pretrained("velo", seed=3)
    assert loaded == optimizers.fingerprint(made)
    assert loaded != optimizers.fingerprint(found["mu_velo"].pretrained)


def test_random_is_for_every_learned_optimizer_without_another(saved):
    found = sources(NAMES, ["random", f"mu_velo={saved['velo']}"], "random")
    learned = [name for name in NAMES if optimizers.get(name).learned]
    expected = dict.fromkeys(learned, "random") | {"mu_velo": saved["velo"]}
    assert found == expected


def test_equal_signs_and_commas_in_paths_are_kept():
    assert thetas.parse(["runs/lr=0.1/theta", "velo=a=b,celo=c,d"]) == [
        (None, "runs/lr=0.1/theta"),
        ("velo", "a=b"),
        ("celo", "c,d"),
    ]


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        (NAMES, ["vello=random"], r"got 'vello'; did you mean 'velo'"),
        (NAMES, ["adamw=random"], r"adamw=… is for an optimizer that is not learned"),
        (NAMES, ["celo=random"], r"not in the sweep: add it, --optimizers=mulo,.*celo"),
        (NAMES, ["velo=random", "velo=random"], r"gives velo a theta twice"),
        (NAMES, ["random", "random"], r"one theta without a name, .* NAME among mulo"),
        (NAMES, ["velo="], r"such as runs/demo/theta or mu_velo=random; got 'velo='"),
        (NAMES, ["velo={small_fc}"], r"another rule, SmallFC \(for mulo or small_fc"),
        (("mu_velo",), ["{small_fc}"], r"SmallFC .* fits no optimizer of the sweep"),
        (("adamw",), ["random"], r"random fits no optimizer .*\(adamw\): drop it"),
    ],
)
def test_a_theta_that_does_not_fit_says_what_to_do(names, given, message, saved):
    with pytest.raises(ValueError, match=message):
        thetas.assign(names, [text.format(**saved) for text in given])


def test_a_theta_that_cannot_serve_under_mup_is_found_before_training(tmp_path):
    rule = mulo.VeLO(lstm_hidden_size=4, param_inits=2, param_scale_mult=True)
    mulo.save(tmp_path, rule, rule.init(jax.random.key(0)))
    assert sources(("velo",), [f"velo={tmp_path}"]) == {"velo": str(tmp_path)}
    with pytest.raises(ValueError, match="param_scale_mult"):
        thetas.assign(("mu_velo",), [f"mu_velo={tmp_path}"])


def test_the_command_takes_optimizers_and_thetas_by_name(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "evaluate"),
            "--config=configs/evaluate_width.py:smoke",
            "--config.task=mlp-d1-synthetic:2x2x1:2",
            "--config.widths=(4,)",
            "--config.horizon_steps=2",
            "--config.num_seeds=1",
            "--config.learning_rates.mu_lion=(1e-3,)",
            "--optimizers=mu_lion,mu_learned_adam,learned_adam",
            "--theta=mu_learned_adam=random",
            "--theta=learned_adam=random",
            f"--workdir={tmp_path}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "3 cells run" in done.stdout
    config = (tmp_path / "config.json").read_text()
    assert all(name in config for name in ("mu_lion", "mu_learned_adam"))
    assert "adamw" not in config  # Nothing of what is not swept.
