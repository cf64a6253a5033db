"""Settings every test runs under: strict shapes, fast compiling, slow files first."""

import collections
import os
import pathlib

import jax

# Most of the tests' time is XLA's, on programs that run once. They are compiled without
# optimizing; a test of what users get takes full_compile.jit. XLA reads this when it
# first compiles, also in processes that tests start.
_FAST = ["--xla_backend_optimization_level=0"]
_FAST += ["--xla_llvm_disable_expensive_passes=true"]
if jax.__version_info__[:2] == (0, 10):  # Flags that XLA does not know end the process.
    _FAST += ["--xla_cpu_use_fusion_emitters=false"]
os.environ["XLA_FLAGS"] = " ".join([*_FAST, os.environ.get("XLA_FLAGS", "")])

# A silent broadcast between ranks is how per-parameter features go wrong.
jax.config.update("jax_numpy_rank_promotion", "raise")

# Seconds of tests, all cases together, as "file::function"; as "file" where a fixture
# shared by a file takes them.
_FILE = pathlib.Path(__file__).parent / "slow.txt"
_HEADER = """\
# Seconds of tests that take more than 2, which --quick leaves out; their files start
# first. make test PYTEST_ARGS=--measure writes this.
"""
_ROWS = [x.split() for x in _FILE.read_text().splitlines() if not x.startswith("#")]
_SLOW = {name: float(seconds) for seconds, name in _ROWS}
_taken: collections.Counter[str] = collections.Counter()


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="leave out slow tests")
    parser.addoption("--measure", action="store_true", help="write tests/slow.txt")


def pytest_collection_modifyitems(config, items):
    """Slow files first, so that no worker ends alone with one; leave out slow tests."""
    by_file: collections.Counter[str] = collections.Counter()
    for name, seconds in _SLOW.items():
        by_file[name.partition("::")[0]] += seconds
    items.sort(key=lambda item: -by_file[item.path.name])
    if config.getoption("--quick"):
        config.hook.pytest_deselected(items=[x for x in items if _is_slow(x)])
        items[:] = [x for x in items if not _is_slow(x)]


def _is_slow(item):
    file, function = item.path.name, item.name.partition("[")[0]
    return file in _SLOW or f"{file}::{function}" in _SLOW


def pytest_runtest_logreport(report):
    """Add up seconds, also those that workers report."""
    name = pathlib.Path(report.nodeid.partition("[")[0]).name
    shared = report.when != "call" and report.duration > 2
    _taken[name.partition("::")[0] if shared else name] += report.duration


def pytest_sessionfinish(session):
    if session.config.getoption("--measure") and not hasattr(
        session.config, "workerinput"
    ):
        slow = [(n, s) for n, s in _taken.most_common() if s > 2]
        files = {name for name, _ in slow if "::" not in name}
        rows = [
            f"{seconds:.0f} {name}\n"
            for name, seconds in slow
            if name in files or name.partition("::")[0] not in files
        ]
        _FILE.write_text(_HEADER + "".join(rows))
