import json
import os
import pathlib
import subprocess
import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from evaluate import compare

ROOT = pathlib.Path(__file__).parent.parent


def summary(lines, tasks=("a", "b")):
    """Make a summary: losses by seed of each line at each task."""
    settings = [{"label": t, "batch_examples": 8} for t in tasks]
    entries = [
        {"key": key, "setting": i, "scores": {"train": scores, "valid": scores}}
        for key, rows in lines.items()
        for i, scores in enumerate(rows)
    ]
    return {"keys": list(lines), "settings": settings, "entries": entries}


OLD = summary({"x": [[2.0, 2.2, 1.9], [1.0, 1.1, 1.0]], "y": [[1.0] * 3] * 2})
NEW = summary({"x": [[1.0, 1.2, 0.9], [1.0, 1.1, 1.0]], "z": [[1.0] * 3] * 2})


def write(folder, values):
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(values))
    return folder


def test_lines_and_settings_in_common_are_compared_seed_by_seed():
    (found,) = compare.compare(OLD, NEW)
    assert (found.line, found.other) == ("x", "x")
    assert found.outcomes == (1, 0)
    assert found.margins == pytest.approx((3.1 / 6.1 - 1, 0.0))
    assert (found.win_rate.wins, found.win_rate.ties) == (1, 1)


def test_a_line_may_be_compared_with_another_one():
    (found,) = compare.compare(OLD, NEW, line="y", other="x")
    assert found.outcomes == (0, 0)
    (found,) = compare.compare(OLD, NEW, line="x", other="z")
    assert found.outcomes[0] == 1


def test_a_diverged_run_loses_and_counts_in_no_margin():
    bad = summary({"x": [[None, 2.2, 1.9], [None, None, None]]})
    (found,) = compare.compare(OLD, bad)
    assert found.outcomes == (-1, -1)
    assert found.margins[0] == pytest.approx(2.05 / (6.1 / 3) - 1)
    assert "0 % (0 … " in compare.describe([found])


def test_settings_of_other_batches_are_not_the_same():
    other = summary({"x": [[1.0] * 3] * 2})
    for setting in other["settings"]:
        setting["batch_examples"] = 16
    with pytest.raises(ValueError, match="no line with a setting in common"):
        compare.compare(OLD, other)


@pytest.fixture(autouse=True)
def parsed_flags():
    flags.FLAGS.mark_as_parsed()


def test_the_command_prints_writes_and_is_strict_on_request(tmp_path, capsys):
    old, new = write(tmp_path / "old", OLD), write(tmp_path / "new", NEW)
    out = tmp_path / "compared"
    with flagsaver.flagsaver(line="x", strict=True, workdir=str(out)):
        # One lost, one undecided: no verdict.
        assert compare.main([str(new), str(old)]) == 0
    (values,) = json.loads((out / "compare.json").read_text())
    assert values["outcomes"] == [-1, 0]
    worse = summary({"x": [[3.0, 3.2, 2.9], [2.0, 2.1, 2.0]]})
    bad = write(tmp_path / "worse", worse)
    assert compare.main([str(old), str(bad)]) == 0
    with flagsaver.flagsaver(strict=True):
        assert compare.main([str(old), str(bad)]) == 1
    assert "B loses to A in x." in capsys.readouterr().out


def test_bad_input_names_what_is_wrong(tmp_path):
    old = write(tmp_path / "old", OLD)
    (tmp_path / "half.json").write_text('{"keys": [')
    for arguments, message in (
        ((old,), "give two workdirs"),
        ((old, tmp_path / "none"), "none is no summary of a sweep"),
        ((old, tmp_path / "half.json"), "half.json is no summary of a sweep"),
    ):
        with pytest.raises(ValueError, match=message):
            compare.main([str(x) for x in arguments])
    with pytest.raises(ValueError, match="no line is called 'xx'"):
        compare.compare(OLD, NEW, line="xx")


def test_the_command_line_ends_in_one_line_and_status_2(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "evaluate.compare", str(tmp_path), str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("compare: ")
    assert done.stderr.count("\n") == 1
