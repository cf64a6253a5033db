import pytest
from helpers import sweep_parts

from evaluate.report import ranges

(SETTING,) = sweep_parts.config(widths=(8,)).settings  # Depth 1, 20 steps.


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({}, None),
        ({"widths": (4, 16)}, True),
        ({"widths": (8,), "depths": (1,), "horizon_steps": (20, 20)}, True),
        ({"widths": (16, 32)}, False),
        ({"widths": (4, 16), "depths": (2, 3)}, False),
        ({"horizon_steps": (1, 19)}, False),
    ],
)
def test_a_setting_is_inside_when_all_its_sizes_are(known, expected):
    assert ranges.inside(SETTING, known) is expected
