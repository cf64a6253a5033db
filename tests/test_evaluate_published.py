import pytest

import tasks
from evaluate.optimizers import names, published


def find(optimizer, task):
    return published.find(optimizer, tasks.names.parse(task))


def test_rows_are_those_of_the_tables():
    found = find("mu_adam", "mlp-w1024-d3-cifar10")
    assert found == published.Published(0.1473, {"b1": 0.9, "b2": 0.95}, "μLO, table 7")
    found = find("adamw", "mlp-w1024-d3-cifar10")
    assert (found.learning_rate, found.hyper["weight_decay"]) == (2.89e-3, 1e-4)


@pytest.mark.parametrize("task", ["mlp-w8-d2-cifar10", "mlp-w8-d2-cifar10:8x8:gray"])
def test_width_depth_and_options_of_the_data_do_not_matter(task):
    assert find("mu_adam", task).learning_rate == 0.1473


def test_transformers_have_one_row_for_all_texts():
    both = ("transformer-w64-d2-k16-pystdlib", "transformer-w64-d2-k16-lm1b")
    first, second = (find("adamw", task) for task in both)
    assert first == second
    assert first.learning_rate == 7.02e-4


@pytest.mark.parametrize(
    ("optimizer", "task"),
    [
        ("mu_muon", "mlp-w8-d2-cifar10"),
        ("mu_adam", "mlp-w8-d2-digits"),
        ("adam", "vit-w64-d2-p2-k16-cifar10:8x8"),
    ],
)
def test_what_nobody_published_is_none(optimizer, task):
    assert find(optimizer, task) is None


def test_published_hyper_parameters_are_the_optimizers():
    for name, rows in published._TABLE.items():
        for row in rows.values():
            names.resolve_hyper(name, row.hyper)
