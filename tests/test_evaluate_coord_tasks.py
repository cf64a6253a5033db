"""The coordinate check of every kind of task: passed under μP, failed under SP.

A single wrong multiplier shows here and nowhere else. Networks are tiny, since what
takes time is compiling them; each is compiled once for all optimizers.
"""

import dataclasses
from typing import Any

import jax
import pytest

from evaluate.coord_check import coordinates, training
from evaluate.optimizers import names, random_thetas
from mulo import mup
from tasks.models import blocks

TEXT, IMAGES = "synthetic_text:16", "synthetic:4x4x1:3"
RANDOM = random_thetas.pretrained()


@pytest.fixture(autouse=True)
def _measured_on_few_images(monkeypatch):
    """Of convnets it takes longer to look at the usual 256 than to train."""
    monkeypatch.setattr(training, "_PROBE_POSITIONS", 32)


MODELS: dict[str, Any] = {}

# Task: (widths, learning rates by optimizer where not the default). Rates of gradient
# descent depend on the loss; all are such that the steps matter. Convolutions get few
# channels: compiled without optimizing, they run long.
CHECKS = {
    f"mlp-d2-{IMAGES}": ((32, 256), {}),
    f"mlp-d2-tanh-ln-{IMAGES}": ((32, 256), {}),
    f"mlpae-d3-{IMAGES}": ((32, 256), {"mu_sgd": 10.0, "sgd": 3.0}),
    f"conv-d2-{IMAGES}": ((8, 32), {"mu_sgd": 1.0}),
    f"resnet-d3-{IMAGES}": ((8, 32), {}),
    f"vit-d1-p2-k8-{IMAGES}": ((32, 128), {}),
    f"transformer-d1-k8-s8-{TEXT}": ((32, 128), {"mu_sgd": 1.0}),
}
TRANSFORMER = f"transformer-d1-k8-s8-{TEXT}"


def check(task, optimizer, models=MODELS, **changes):
    settings: dict[str, Any] = {"num_seeds": 2, "num_steps": 6, "batch_size": 16}
    if task.removeprefix("sp-") in CHECKS:
        widths, rates = CHECKS[task.removeprefix("sp-")]
        settings |= {"widths": widths, "learning_rate": rates.get(optimizer)}
    config = coordinates.CoordConfig(
        task=task, optimizer=optimizer, **(settings | changes)
    )
    return coordinates.check(config, RANDOM, models=models)


@pytest.mark.parametrize("optimizer", ["mu_sgd", "mu_adam", "mulo"])
@pytest.mark.parametrize("task", list(CHECKS))
def test_every_kind_of_task_passes_under_mup(task, optimizer):
    result = check(task, optimizer)
    assert result.growing == ()
    # Of a parametrization that is right, only the logits may shrink, early on.
    assert set(result.shrinking) <= {"logits"}
    assert result.changes[:, :, -1].max() > 0.01


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("task", list(CHECKS))
def test_its_standard_twin_fails(task, optimizer):
    result = check(f"sp-{task}", optimizer)
    assert "logits" in result.growing
    # Input layers are right in both parametrizations, and must not be blamed.
    assert result.layers[0] not in result.growing


def give_role(monkeypatch, path, role):
    """Make the optimizer take one leaf for something else; return where it did."""
    build = names.build
    found = []

    def replaced(leaf_path, scaling):
        if jax.tree_util.keystr(leaf_path, simple=True, separator="/") != path:
            return scaling
        found.append(scaling)
        return dataclasses.replace(scaling, role=role)

    def wrong(*args, scalings, **kwargs):
        scalings = jax.tree_util.tree_map_with_path(
            replaced, scalings, is_leaf=lambda x: isinstance(x, mup.Scaling)
        )
        return build(*args, scalings=scalings, **kwargs)

    monkeypatch.setattr(names, "build", wrong)
    return found


@pytest.mark.parametrize(
    ("leaf", "layer"),
    [
        ("query", "query"),
        ("key", "key"),
        ("value", "value"),
        ("out", "attention"),
        ("mlp_in", "mlp_in"),
        ("mlp_out", "mlp_out"),
    ],
)
def test_one_hidden_matrix_with_the_step_of_an_input_fails(leaf, layer, monkeypatch):
    found = give_role(monkeypatch, f"block_0/{leaf}/kernel", "input")
    result = check(TRANSFORMER, "mu_adam", num_seeds=1)
    assert len(found) == 2  # One per width.
    assert f"block_0/{layer}" in result.growing


def test_a_readout_with_the_step_of_a_hidden_matrix_shrinks(monkeypatch):
    found = give_role(monkeypatch, "readout/kernel", "hidden")
    result = check(TRANSFORMER, "mu_adam", num_seeds=1)
    assert len(found) == 2
    assert "logits" in result.shrinking
    assert result.verdicts[-1] < -0.8


def test_logits_that_are_not_scaled_down_fail(monkeypatch):
    monkeypatch.setattr(mup, "forward_multiplier", lambda scaling: 1.0)
    result = check(f"mlp-d2-{IMAGES}", "mu_adam", models={}, num_seeds=1)
    assert result.growing == ("logits",)


@pytest.mark.parametrize("right", [True, False])
def test_attention_logits_must_be_times_one_over_the_head_size(right, monkeypatch):
    if not right:
        monkeypatch.setattr(
            blocks, "attention_multiplier", lambda head_dim, sp: head_dim**-0.5
        )
    # Two heads at every width: their size grows. Products of initial queries and keys
    # with what training adds are random sums, which 1/sqrt(head_dim) would suit: logits
    # shrink a little early on if right, and grow by less than their due if wrong.
    result = check(
        f"transformer-d1-h2-s8-{TEXT}",
        "mu_adam",
        models={},
        widths=(64, 256),
        num_steps=12,
        threshold=0.1,
    )
    assert ("block_0/attention_logits" in result.growing) == (not right)
    assert bool(result.growing) == (not right)


@pytest.mark.parametrize("alpha", [1, 0])
def test_depth_transfers_with_branches_over_the_depth_only(alpha):
    task = f"transformer-w32-k16-s8-a{alpha}-{TEXT}"
    result = check(task, "mu_adam", models={}, depths=(2, 4))
    assert ("last_block" in result.growing) == (alpha == 0)
    assert bool(result.growing) == (alpha == 0)
    assert {"embed", "first_block/query", "middle_block/mlp_out"} < set(result.layers)
