import math

import numpy as np
import pytest

from evaluate.report import outcomes


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        ([1.0, 1.1, 1.2], [2.0, 2.1, 2.3], 1),
        ([2.0, 2.1, 2.3], [1.0, 1.1, 1.2], -1),
        ([1.0, 2.0, 3.0], [2.0, 1.0, 3.5], 0),
        ([1.0, 1.0], [1.0, 1.0], 0),
    ],
)
def test_seeds_decide_in_pairs_by_the_t_test(mine, theirs, expected):
    found, p_value = outcomes.decide(np.array(mine), np.array(theirs))
    assert found == expected
    assert (p_value < 0.05) == (expected != 0)


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        ([1.0, math.inf], [1.0, 1.0], -1),
        ([1.0, 1.0], [math.inf, 0.5], 1),
        ([9.0, math.inf], [1.0, math.inf], 0),
        ([9.0, 9.1], [math.inf, math.inf], 1),
        ([math.inf, math.inf], [9.0, math.inf], -1),
        ([math.inf, math.inf], [math.inf, math.inf], 0),
        ([1.0], [1.004], 0),
        ([1.0], [1.006], 1),
        ([math.inf], [1.0], -1),
    ],
)
def test_divergence_and_single_seeds_decide_as_the_rule_says(mine, theirs, expected):
    found, p_value = outcomes.decide(np.array(mine), np.array(theirs))
    assert found == expected
    assert p_value is None
