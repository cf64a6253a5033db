"""Meta-training on families: mixtures of widths, suites, augmentation, resume."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import short_runs

from configs import paper_mulo_m
from meta_train import setup
from tasks import augmentation

EVERYTHING = dict(
    reparam="tensor",
    label_subset_min=1,
    input_noise_max=0.5,
    activations=("relu", "tanh"),
)


def small_config(tasks=("mlp-w4-d1-synthetic:2x2x1:3",), augment=None):
    c = paper_mulo_m.get_config("smoke").to_dict()
    c["tasks"], c["batch_examples"], c["rule"]["hidden_size"] = tasks, 4, 2
    c["estimator"] |= dict(min_length_steps=2, max_length_steps=6)
    c["augment"] |= augment or {}
    return c


@pytest.fixture(scope="module")
def trainer():
    return setup.build(small_config(augment=EVERYTHING))


def copied(state):
    return jax.tree.map(jnp.copy, state)


def test_both_signs_of_a_pair_train_the_same_member_until_their_runs_end(trainer):
    state, seen = trainer.init(), []
    (estimator,) = trainer.estimators
    pairs = estimator.config.num_pairs
    for _ in range(6):
        before = copied(state)
        state, _ = trainer.step(state)
        after = copied(state)
        drawn = [s.estimators[0].inner.task_params for s in (before, after)]
        assert set(drawn[1]) == {
            "scale",
            "classes",
            "num_classes",
            "noise_std",
            "activation",
        }
        for name, leaf in drawn[1].items():
            assert leaf.shape[:2] == (pairs, 2)
            np.testing.assert_array_equal(leaf[:, 0], leaf[:, 1], err_msg=name)
        ended = before.estimators[0].step >= before.estimators[0].length
        for pair in range(pairs):
            same = np.array_equal(
                drawn[0]["scale"][pair, 0], drawn[1]["scale"][pair, 0]
            )
            assert same != bool(ended[pair])
            seen.append(float(drawn[1]["noise_std"][pair, 0]))
    assert len(set(seen)) > pairs  # Pairs differ, and so do later runs of a pair.


def test_runs_start_at_the_scaled_parameters_of_their_member(trainer):
    inner = trainer.estimators[0].inner
    state = inner.init(trainer.init().theta, jax.random.key(3))
    want = inner.family.task.init(jax.random.key(3))
    scales = inner.family.at(state.task_params).scales
    jax.tree.map(
        lambda p, w, a: np.testing.assert_allclose(p * a, w, rtol=1e-5, atol=1e-7),
        state.params,
        want,
        scales,
    )


def test_without_augmentation_there_is_one_member_and_nothing_to_keep():
    plain = setup.build(small_config())
    assert jax.tree.leaves(plain.init().estimators[0].inner.task_params) == []


def test_a_resumed_run_with_augmentation_is_bit_identical(trainer, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    short_runs.run(trainer, whole, 4)
    short_runs.run(trainer, parts, 2)
    # A new trainer, as a new process would build it.
    again = setup.build(small_config(augment=EVERYTHING))
    short_runs.run(again, parts, 4)
    want, got = (short_runs.final(trainer, workdir) for workdir in (whole, parts))
    assert got.keys() == want.keys()
    for part in ("scale", "classes", "noise_std", "activation", "theta"):
        assert any(part in name for name in want)
    assert want[".meta_step"] == 4
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def test_a_mixture_of_widths_is_one_line_of_a_config():
    config = small_config(("mlp-w4+w6-d1-synthetic:2x2x1:3", "mlp-w4-d1-digits"))
    names = [
        "mlp-w4-d1-synthetic:2x2x1:3",
        "mlp-w6-d1-synthetic:2x2x1:3",
        "mlp-w4-d1-digits",
    ]
    assert setup.task_names(config) == names
    mixed = setup.build(config)
    assert [e.inner.family.task.name for e in mixed.estimators] == names
    resolved = setup.resolve(config)
    assert resolved["tasks"] == tuple(names)
    assert setup.card(resolved)["data"] == ["digits", "synthetic:2x2x1:3"]


def test_tasks_given_twice_are_refused_also_inside_a_mixture():
    config = small_config(("mlp-w4+w6-d1-digits", "mlp-w6-d1-digits"))
    with pytest.raises(ValueError, match=r"must be distinct, got .* that is "):
        setup.build(config)


def test_a_task_may_be_given_twice_with_different_batch_sizes():
    names = ("mlp-w4+w6-d1-digits", "mlp-w6-d1-digits")
    config = small_config(names) | {"batch_examples": (4, 4, 8)}
    trainer = setup.build(config)
    assert trainer.names == [
        "mlp-w4-d1-digits",
        "mlp-w6-d1-digits@b4",
        "mlp-w6-d1-digits@b8",
    ]
    sizes = [e.inner.family.task.batch_size for e in trainer.estimators]
    assert sizes == [4, 4, 8]
    with pytest.raises(ValueError, match=r"got 2 for 3 tasks: \[4, 8\] for \['mlp"):
        setup.build(config | {"batch_examples": (4, 8)})
    with pytest.raises(ValueError, match="tasks must be distinct"):
        setup.build(config | {"batch_examples": (8, 4, 4)})


def test_augmentation_that_does_not_fit_the_task_is_refused():
    config = small_config(augment={"label_subset_min": 4})
    with pytest.raises(ValueError, match="at most the number of classes, 3 "):
        setup.build(config)


@pytest.mark.parametrize(
    ("module", "variant"),
    [
        ("paper_mulo_s", "full"),
        ("paper_mulo_m", "full"),
        ("mulo_cifar", "cpu"),
        ("mulo_digits", "demo"),
        ("celo_fast_velo", "full"),
    ],
)
def test_every_config_declares_every_knob_of_augmentation(module, variant):
    config = importlib.import_module(f"configs.{module}").get_config(variant)
    fields = {f.name for f in dataclasses.fields(augmentation.AugmentConfig)}
    assert set(config.augment) == fields
    checked = augmentation.AugmentConfig(**config.augment.to_dict())
    assert checked.is_off == (module != "celo_fast_velo")


def test_fast_velo_follows_celos_recipe():
    from configs import celo_fast_velo

    c = celo_fast_velo.get_config()
    assert c.tasks == ("fast_velo",)
    assert c.batch_examples == 64
    assert (c.augment.reparam, c.augment.reparam_low) == ("global", 1e-3)
    assert c.augment.reparam_high == 1e3
    assert (c.estimator.sigma, c.estimator.num_pairs, c.estimator.trunc_steps) == (
        0.01,
        8,
        50,
    )
    assert (c.estimator.min_length_steps, c.estimator.max_length_steps) == (100, 2_000)
    assert celo_fast_velo.get_config("present").tasks == ("fast_velo:present",)
    assert celo_fast_velo.get_config("full_sp").tasks == ("sp-fast_velo",)
    with pytest.raises(ValueError, match=r"variant must be .* got 'x'"):
        celo_fast_velo.get_config("x")


def test_a_loss_ceiling_below_the_loss_of_guessing_is_refused():
    config = small_config() | {"loss_ceiling": 1.0}
    with pytest.raises(ValueError, match=r"loss_ceiling must exceed 1\.1 nats"):
        setup.build(config)


def test_an_autoencoder_takes_no_noise_for_it_would_be_its_target():
    config = small_config(
        ("mlpae-w4-d3-synthetic:2x2x1:3",), augment=dict(input_noise_max=0.5)
    )
    with pytest.raises(ValueError, match="input_noise_max would add noise to what"):
        setup.build(config)
