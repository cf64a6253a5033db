import dataclasses

import pytest
from helpers import sweep_parts


def points(config):
    return [(s.width, s.depth, s.horizon_steps) for s in config.settings]


def test_a_product_is_every_combination_and_begins_with_the_first_of_each():
    config = sweep_parts.config(
        tasks=("mlp-d2-synthetic:4x4x1:3", "mlp-w6-digits"),
        widths=(8, 4),
        depths=(3, 1),
        horizons=(20, 10),
    )
    found = config.settings
    assert [str(s.task) for s in found if s.horizon_steps == 20] == [
        "mlp-w8-d2-synthetic:4x4x1:3",
        "mlp-w4-d2-synthetic:4x4x1:3",
        "mlp-w6-d3-digits",
        "mlp-w6-d1-digits",
    ]
    # A task that has a size of its own is not multiplied by that axis.
    assert points(config) == [
        (8, 2, 20),
        (8, 2, 10),
        (4, 2, 20),
        (4, 2, 10),
        (6, 3, 20),
        (6, 3, 10),
        (6, 1, 20),
        (6, 1, 10),
    ]


def test_a_star_varies_one_axis_at_a_time_around_the_base():
    config = sweep_parts.config(
        tasks=("mlp-d1-synthetic:4x4x1:3", "mlp-d2-synthetic:4x4x1:3"),
        design="star",
        widths=(4, 8, 16),
        horizons=(10, 20),
    )
    star = [(4, 10), (8, 10), (16, 10), (4, 20)]
    expected = [(width, depth, steps) for depth in (1, 2) for width, steps in star]
    assert points(config) == expected


def test_a_task_may_bring_its_own_horizon():
    tasks = ("mlp-w4-d1-digits@30", "mlp-d1-synthetic:4x4x1:3")
    config = sweep_parts.config(tasks=tasks, widths=(4, 8), horizons=(10,))
    assert points(config) == [(4, 1, 30), (4, 1, 10), (8, 1, 10)]
    assert str(config.settings[0].task) == "mlp-w4-d1-digits"
    for bad in ("mlp-w4-d1-digits@", "mlp-w4-d1-digits@1e3", "mlp-w4-d1-digits@0"):
        with pytest.raises(
            ValueError, match=r"after @ stands a number of steps, .*@5000"
        ):
            sweep_parts.config(tasks=(bad,), widths=())


def test_settings_know_their_family_label_and_sizes():
    (setting,) = sweep_parts.config(
        tasks=("mlp-d1-tanh-digits",), widths=(4,), horizons=(1_000,)
    ).settings
    assert setting.family == "mlp-tanh-digits"
    assert setting.label == "mlp-w4-d1-tanh-digits, 1,000 steps"
    assert str(setting.task) == "mlp-w4-d1-tanh-digits"
    assert (setting.width, setting.depth) == (4, 1)


def test_kinds_of_task_have_batches_of_their_own():
    config = sweep_parts.config(
        tasks=("mlp-w4-d1-digits", "transformer-w8-d1-k8-s4-synthetic_text:4"),
        widths=(),
        batch_examples_of={"transformer": 3},
    )
    assert [s.batch_examples for s in config.settings] == [8, 3]


def test_grids_are_those_of_the_configuration_else_the_defaults():
    config = sweep_parts.config(learning_rates={"mu_adam": (1, 2.5)})
    assert config.grid("mu_adam") == (1.0, 2.5)
    assert config.grid("adamw") == (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ("mpl-d1-digits",)}, r"got 'mpl-d1-digits'.*Did you mean 'mlp'"),
        ({"tasks": ("sp-mlp-d1-digits",)}, r"trains the sp- twin itself.*'sp-mlp-d1"),
        ({"tasks": ()}, r"tasks must not be empty"),
        ({"tasks": ("mlp-d1-digits",) * 2}, r"tasks must be distinct"),
        ({"tasks": ("mlp-w4-d1-digits",)}, r"widths=\(4, 8\) are used by no task"),
        ({"depths": (2,)}, r"depths=\(2,\) are used by no task"),
        ({"widths": ()}, r"widths must not be empty: 'mlp-d1-synthetic.*no width"),
        ({"tasks": ("mlp-w4-digits",), "widths": ()}, r"depths must not be empty"),
        ({"widths": (8, 8)}, r"widths must be distinct; got \(8, 8\)"),
        ({"widths": (0, 8)}, r"widths must be >= 1"),
        ({"horizons": ()}, r"horizons must not be empty"),
        ({"horizons": (10, 0)}, r"horizons\[1\] must be >= 1; got 0"),
        ({"horizons": (10, 10)}, r"horizons must be distinct"),
        ({"design": "cross"}, r"design must be one of product, star; got 'cross'"),
        ({"optimizers": ()}, r"optimizers must not be empty"),
        ({"optimizers": ("mula",)}, r"got 'mula'; did you mean 'mulo'"),
        ({"optimizers": ("sgd", "sgd")}, r"optimizers must be distinct"),
        ({"optional": ("veol",)}, r"got 'veol'; did you mean 'velo'"),
        ({"schedules": ()}, r"schedules must not be empty"),
        ({"schedules": ("cosin",)}, r"got 'cosin'; did you mean 'cosine'"),
        ({"num_seeds": 0}, r"num_seeds must be >= 1; got 0"),
        ({"tuning_seeds": 0}, r"tuning_seeds must be >= 1; got 0"),
        ({"tuning_seeds": 3}, r"tuning_seeds must be <= num_seeds; got 3 and 2"),
        ({"tuning_refinements": -1}, r"tuning_refinements must be >= 0; got -1"),
        ({"jobs": -1}, r"jobs must be >= 0"),
        ({"lanes": -1}, r"lanes must be >= 0"),
        ({"valid_points": 0}, r"valid_points must be >= 1"),
        ({"batch_examples_of": {"vit": 0}}, r"batch_examples_of.vit must be >= 1"),
        ({"lambdas_at": "some"}, r"lambdas_at must be one of base, all, none"),
        ({"lambdas": (2.0, 1.0)}, r"lambdas must be positive and rising"),
        ({"confidence_frac": 95.0}, r"confidence_frac must lie in \(0, 1\)"),
        (
            {"learning_rates": {"mu_adam": ()}},
            r"learning_rates.mu_adam must be positive and rising; got \(\)",
        ),
        (
            {"learning_rates": {"mu_adam": (0.1, 0.01)}},
            r"learning_rates.mu_adam must be positive and rising",
        ),
        (
            {"hyper": {"mu_adam": {"b1": 0.9, "beta2": 0.9}}},
            r"mu_adam\.beta2 is not a hyper.*",
        ),
    ],
)
def test_configurations_that_make_no_sense_are_errors(changes, message):
    good = sweep_parts.config().__dict__
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(
            sweep_parts.config(),
            **{
                field: {**good[field], **value} if isinstance(value, dict) else value
                for field, value in changes.items()
            },
        )


def test_an_unknown_kind_in_batch_examples_of_is_an_error():
    with pytest.raises(ValueError, match=r"batch_examples_of\.mpl: no such kind"):
        dataclasses.replace(sweep_parts.config(), batch_examples_of={"mpl": 3})
