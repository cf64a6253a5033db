import json

import numpy as np
import pytest

import tasks
from benchmarks import velodrome


def test_the_moving_average_starts_at_the_first_loss():
    averaged = velodrome.moving_average(np.array([4.0, 0.0, 2.0]), decay=0.5)
    np.testing.assert_allclose(averaged, [4.0, 2.0, 2.0])


def test_the_envelope_is_the_best_rate_so_far_of_the_mean_over_seeds():
    losses = np.full((2, 2, 4), 3.0)
    losses[0, :, 1:] = [[1.0, 1.0, np.nan], [2.0, 2.0, np.nan]]  # Diverges at last.
    averaged = velodrome.moving_average(np.array([3.0, 1.5, 1.5]))
    np.testing.assert_allclose(velodrome.envelope(losses), [*averaged, averaged[-1]])


def test_every_task_compared_has_a_name_of_ours_in_standard_parametrization():
    for ours, batch_size in velodrome.TASKS.values():
        parsed = tasks.names.parse(ours)
        assert parsed.sp
        assert parsed.data.velodrome
        assert batch_size == 128


def test_training_measures_falling_losses_from_the_start_on():
    task = tasks.get("sp-mlp-w8-d1-digits", batch_size=32)
    losses = velodrome.train(task, (1e-2,), num_seeds=2, num_steps=60)
    assert losses.shape == (1, 2, 7)
    np.testing.assert_allclose(losses[0, :, 0], np.log(10), rtol=0.3)
    assert np.all(losses[0, :, -1] < 0.8 * losses[0, :, 0])


@pytest.mark.parametrize("content", ["{}", "not json", json.dumps({"curves": {}})])
def test_a_file_without_the_curve_is_one_line_and_status_2(content, tmp_path, capsys):
    path = tmp_path / "curves.json"
    path.write_text(content)
    assert velodrome.main([f"--curves={path}"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("velodrome: ")
