import math

import pytest

from evaluate.sweep import tuning


def search(loss, grid, refinements):
    """Search on a made-up loss by rate; return all losses, in order of running."""
    losses = {}
    while following := tuning.next_rates(losses, grid, refinements):
        assert not set(following) & set(losses)
        losses |= {rate: loss(rate) for rate in following}
    return losses


def valley(best):
    """Smooth in the logarithm of the rate."""
    return lambda rate: abs(math.log(rate / best))


def test_the_grid_is_run_first_and_whole():
    grid = (0.01, 0.1, 1.0)
    assert tuning.next_rates({}, grid, 4) == [0.01, 0.1, 1.0]
    assert tuning.next_rates({0.1: 1.0}, grid, 4) == [0.01, 1.0]


def test_refinement_halves_and_doubles_until_the_best_is_interior():
    losses = search(valley(0.11), (0.01, 0.1, 1.0), 10)
    assert list(losses) == [0.01, 0.1, 1.0, 0.05, 0.2]
    assert tuning.best_rate(losses) == 0.1
    assert tuning.is_interior(losses)


@pytest.mark.parametrize("best", [3e-4, 30.0])
def test_an_optimum_outside_the_grid_is_found(best):
    losses = search(valley(best), (0.01, 0.1, 1.0), 20)
    found = tuning.best_rate(losses)
    assert found is not None
    assert max(found / best, best / found) < 2
    assert tuning.is_interior(losses)


@pytest.mark.parametrize("refinements", [0, 1, 2, 3])
def test_no_more_rates_than_the_budget_are_run_beyond_the_grid(refinements):
    losses = search(valley(1e-9), (0.1, 0.2, 0.4), refinements)
    assert len(losses) == 3 + refinements
    assert not tuning.is_interior(losses)


def test_a_fine_grid_that_brackets_its_best_needs_no_refinement():
    losses = search(valley(0.2), (0.1, 0.2, 0.4), 5)
    assert list(losses) == [0.1, 0.2, 0.4]
    assert tuning.is_interior(losses)


def test_rates_nearly_the_same_are_not_run_twice():
    # 0.012 would be 1.2 times 0.01.
    losses = search(valley(0.0045), (0.003, 0.01), 6)
    assert list(losses) == [0.003, 0.01, 0.0015, 0.006]


def test_neighbours_on_one_side_do_not_bracket_the_other():
    losses = {0.1: 1.0, 0.12: 2.0, 0.144: 3.0, 0.2: 4.0}
    assert not tuning.is_interior(losses)
    assert tuning.next_rates(losses, tuple(losses), 2) == [0.05]


def test_where_every_rate_diverged_smaller_ones_are_tried():
    losses = search(lambda rate: math.inf, (0.1, 1.0), 3)
    assert list(losses) == pytest.approx([0.1, 1.0, 0.1 / 8, 0.1 / 64, 0.1 / 512])
    assert tuning.best_rate(losses) is None
    assert not tuning.is_interior(losses)
    below = search(lambda rate: rate if rate < 0.02 else math.inf, (0.1, 1.0), 4)
    assert min(below) == tuning.best_rate(below) < 0.02


def test_rates_that_diverged_bound_the_best():
    losses = {0.1: 2.0, 0.2: 1.0, 0.4: math.inf}
    assert tuning.best_rate(losses) == 0.2
    assert tuning.is_interior(losses)
    assert not tuning.is_interior({0.1: 1.0})


def test_of_equals_the_lowest_rate_is_best():
    assert tuning.best_rate({0.4: 1.0, 0.1: 1.0, 0.2: 1.0}) == 0.1
    assert tuning.best_rate({0.1: math.nan, 0.2: 3.0}) == 0.2
    assert tuning.best_rate({}) is None
