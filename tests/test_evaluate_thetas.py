"""Several learned optimizers in one sweep: which theta is whose, and bad input."""

import jax
import pytest

import mulo
from evaluate.optimizers import names as optimizers
from evaluate.optimizers import random_thetas, thetas

NAMES = ("mulo", "mu_small_fc", "small_fc", "mu_velo", "velo", "adamw")


def save(folder, name):
    made = random_thetas.pretrained(name, seed=3)
    mulo.save(folder, made.rule, made.theta)
    return str(folder)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("theta")
    return {name: save(folder / name, name) for name in ("small_fc", "velo")}


def sources(*args, **settings):
    """Where thetas come from, by optimizer, or by label for those of mulo."""
    found = thetas.assign(*args, **settings)
    every = found.unnamed | found.named | found.extra
    return {name: theta.source for name, theta in every.items()}


def test_thetas_without_a_name_are_what_mulo_stands_for(saved):
    first, second = saved["small_fc"], saved["velo"]
    # Called after where they lie, never like an optimizer.
    expected = {"small_fc-2": first, "velo-2": second, "random": "random"}
    assert sources(NAMES, [first, second, "random"]) == expected


def test_without_mulo_a_theta_is_for_all_mup_optimizers_of_its_rule(saved):
    where = saved["small_fc"]
    names = [name for name in NAMES if name != "mulo"]
    assert sources(names, [where]) == {"mu_small_fc": where}
    assert sources(NAMES, [], where) == {"small_fc": where}


def test_a_theta_of_a_run_is_called_after_its_workdir(tmp_path):
    given = [str(tmp_path / name / "theta") for name in ("digits", "cifar")]
    for where in given:
        save(where, "small_fc")
    assert list(sources(("mulo",), given)) == ["digits", "cifar"]
    assert list(sources(("mulo",), [f"{given[0]}/model.safetensors"])) == ["model"]


def test_the_command_line_takes_the_place_of_the_configurations_thetas(saved):
    small_fc, velo = saved["small_fc"], saved["velo"]
    entries = ["random", f"mu_velo={velo}", small_fc]
    expected = {"small_fc-2": small_fc, "mu_velo": velo}
    assert sources(NAMES, entries, given=1) == expected
    entries = ["random", "mu_velo=random", f"mu_velo={velo}"]
    expected = {"random": "random", "mu_velo": velo}
    assert sources(NAMES, entries, given=1) == expected
    assert sources(("adamw",), [small_fc, velo], given=0) == {}


def test_a_new_name_is_a_further_contender(saved):
    found = thetas.assign(NAMES, [f"ablation={saved['small_fc']}"])
    assert list(found.extra) == ["ablation"]


def test_named_thetas_go_where_they_are_named(saved):
    small_fc, velo = saved["small_fc"], saved["velo"]
    given = [f"mulo={velo},velo={velo}", "mu_velo=random", f"mu_small_fc={small_fc}"]
    assert sources(NAMES, given) == {
        "mulo": velo,
        "velo": velo,
        "mu_velo": "random",
        "mu_small_fc": small_fc,
    }
    found = thetas.assign(NAMES, given)
    assert isinstance(found.unnamed["mulo"].pretrained.rule, mulo.VeLO)
    loaded = optimizers.fingerprint(found.named["velo"].pretrained)
    made = random_thetas.pretrained("velo", seed=3)
    assert loaded == optimizers.fingerprint(made)
    assert loaded != optimizers.fingerprint(found.named["mu_velo"].pretrained)


def test_random_is_for_every_learned_optimizer_without_another(saved):
    names = [name for name in NAMES if name != "mulo"]
    found = sources(names, ["random", f"mu_velo={saved['velo']}"], "random")
    learned = [name for name in names if optimizers.get(name).learned]
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
        (NAMES, ["adamw=random"], r"adamw=… is for an optimizer that is not learned"),
        (NAMES, ["celo=random"], r"not in the sweep: add it, --optimizers=mulo,.*celo"),
        (NAMES, ["velo=random", "velo=random"], r"gives velo a theta twice"),
        (NAMES[1:], ["random"] * 2, r"one theta without a name .* NAME among mu_small"),
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
