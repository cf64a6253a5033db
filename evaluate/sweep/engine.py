"""Runs the units of a sweep: one process per core, or lanes on an accelerator.

On CPUs every worker is a process of its own on a core of its own, with one run at a
time: small networks neither fill two cores nor profit from several runs side by side
(docs/performance.md). On accelerators one process trains as many runs side by side as
the memory budget holds. Results are files, written as soon as they are known; workers
send nothing but how far they are.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import queue
import signal
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import tqdm

from evaluate.sweep import axes, costs, failures, plan, worker
from mulo import _cores

_POLL_SECS = 0.2
_MAX_JOBS = 64


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of running units."""

    num_cells_run: int
    failures: tuple[failures.Failure, ...]  # Of this run.
    num_waiting: int  # Units that lack a transferred rate another shard has to find.


def transferred(
    config: axes.SweepConfig, all_units: Sequence[plan.Unit], folder: pathlib.Path
) -> dict[tuple[str, str], float]:
    """Return the rates that the base setting has found, by contender and schedule.

    Of a contender that tries several schedules, that of the better one alone, once all
    are known: the other settings have no say in it.
    """
    base = config.base
    tuned = [u for u in all_units if base in u.settings and plan.transfers(config, u)]
    broken = failures.recorded(folder, tuned)
    searches: dict[str, list[tuple[plan.Unit, plan.Search]]] = {}
    for unit in tuned:
        failed = failures.pairs(broken, unit)
        results, _ = worker.present(config, unit, folder, {}, failed)
        found = plan.search(config, unit, base, results, failed)
        searches.setdefault(unit.contender.label, []).append((unit, found))
    rates = {}
    for label, made in searches.items():
        there = [(unit, x) for unit, x in made if x.found is not None]
        if there and all(x.done for _, x in made):
            unit, best = min(there, key=lambda item: min(item[1].losses.values()))
            assert best.found is not None
            rates[label, unit.program.schedule] = best.found
    return rates


def run(
    config: axes.SweepConfig,
    all_units: Sequence[plan.Unit],
    mine: Sequence[plan.Unit],
    folder: pathlib.Path,
) -> Outcome:
    """Compute the cells whose result is not in ``folder`` yet.

    Args:
      config: The sweep.
      all_units: Of the whole sweep.
      mine: The units to run, a shard perhaps.
      folder: Holds the result files; ``failures/`` beside it those of failed cells.

    Returns:
      What came of it. A cell that fails is recorded and skipped.

    Raises:
      OSError: If a result cannot be written.
      KeyboardInterrupt: On Ctrl-C; workers are stopped, finished cells stay.
    """
    first = [u for u in mine if config.base in u.settings]
    second = [u for u in mine if config.base not in u.settings]
    weights = {
        id(unit): secs
        for unit, _, _, secs, _ in estimate(config, all_units, mine, folder)
    }
    pool = _Pool(config, folder, min(jobs(config), max(1, len(mine))))
    done, found_failures = 0, []
    with _bar(sum(weights.values())) as bar, pool:
        rates = transferred(config, all_units, folder)
        for stage in (first, second):
            # The longest first, so that none is left alone at the end.
            stage = sorted(stage, key=lambda u: -weights[id(u)])
            todo = [
                (unit, plan.rates_for(config, unit, rates), weights[id(unit)])
                for unit in stage
            ]
            for count, failed in pool.run(todo, bar):
                done += count
                found_failures += failed
            rates = transferred(config, all_units, folder)
    known = {label for label, _ in rates}
    in_hand = {u.contender.label for u in first}
    waiting = sum(
        plan.transfers(config, unit)
        and unit.contender.label not in known
        and unit.contender.label not in in_hand
        for unit in second
    )
    return Outcome(done, tuple(found_failures), waiting)


def _left(
    config: axes.SweepConfig,
    unit: plan.Unit,
    folder: pathlib.Path,
    rates: Mapping[tuple[str, str], float],
) -> tuple[plan.Results, int]:
    """Return what a unit has, and guess how many cells it still runs."""
    moved = plan.rates_for(config, unit, rates)
    results, wanted = worker.present(config, unit, folder, moved)
    missing = len(wanted)
    known = {label for label, _ in rates}
    complete = unit.contender.label in known or not plan.transfers(config, unit)
    if complete and not missing:
        return results, 0
    return results, max(missing, plan.expected_cells(config, unit) - len(results))


def _secs(
    config: axes.SweepConfig, unit: plan.Unit, results: plan.Results, left: int
) -> float:
    """Guess the seconds that some cells of a unit take."""
    if not left:
        return 1e-3
    measured = [r.secs_per_step for r in results.values()]
    cost = costs.of_unit(config, unit, min(measured, default=None))
    return cost.compile_secs + left * cost.secs_per_step * unit.program.horizon_steps


def estimate(
    config: axes.SweepConfig,
    all_units: Sequence[plan.Unit],
    mine: Sequence[plan.Unit],
    folder: pathlib.Path,
) -> list[tuple[plan.Unit, int, int, float, float]]:
    """Guess what is left: units, cells there and not, seconds on a core, bytes."""
    rates = transferred(config, all_units, folder)
    found = []
    for unit in mine:
        results, left = _left(config, unit, folder, rates)
        memory = costs.of_unit(config, unit).bytes_per_run if left else 0.0
        secs = _secs(config, unit, results, left)
        found.append((unit, len(results), left, secs, memory))
    return found


def jobs(config: axes.SweepConfig) -> int:
    """Return how many worker processes a sweep has."""
    if config.jobs:
        return config.jobs
    if jax.default_backend() != "cpu":
        return 1
    return min(len(_cores.usable()), _MAX_JOBS)


class _Pool:
    """Workers, each an executor of its own: the death of one is known to be its own."""

    def __init__(self, config: axes.SweepConfig, folder: pathlib.Path, count: int):
        self._config, self._folder, self._count = config, folder, count
        self._executors: list[concurrent.futures.ProcessPoolExecutor] = []
        self._messages: Any = None

    def __enter__(self) -> "_Pool":
        if self._count > 1:
            context = multiprocessing.get_context("spawn")
            self._messages = context.Queue()
            self._executors = [self._start(i) for i in range(self._count)]
        return self

    def __exit__(self, kind: Any, *args: object) -> None:
        for executor in self._executors:
            # What a worker has not finished is lost anyway.
            for process in (executor._processes or {}).values():
                if kind is not None:
                    process.kill()
            executor.shutdown(wait=kind is None, cancel_futures=True)

    def _start(self, index: int) -> concurrent.futures.ProcessPoolExecutor:
        available = _cores.usable()
        return concurrent.futures.ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_initialize,
            initargs=(available[index % len(available)], self._messages),
        )

    def _submit(
        self, index: int, unit: plan.Unit, rates: Mapping[axes.Setting, float]
    ) -> concurrent.futures.Future:
        arguments = (_work, self._config, unit, self._folder, rates, index)
        try:
            return self._executors[index].submit(*arguments)
        except concurrent.futures.process.BrokenProcessPool:
            # It died with nothing to do.
            self._executors[index] = self._start(index)
            return self._executors[index].submit(*arguments)

    def run(
        self,
        units: Sequence[tuple[plan.Unit, Mapping[axes.Setting, float], float]],
        bar: Any,
    ) -> Iterable[tuple[int, list[failures.Failure]]]:
        """Run units; yield cells run and failures of each when it ends."""
        if self._count == 1:
            for unit, rates, weight in units:
                progress = _Progress(bar, weight)
                yield worker.run_unit(
                    self._config, unit, self._folder, rates, progress.show
                )
                progress.end()
            return
        waiting = list(units)
        running: dict[Any, tuple[int, plan.Unit, _Progress]] = {}
        free = list(range(self._count))
        while waiting or running:
            while waiting and free:
                index = free.pop(0)
                unit, rates, weight = waiting.pop(0)
                future = self._submit(index, unit, rates)
                running[future] = (index, unit, _Progress(bar, weight))
            self._drain({i: p for i, _, p in running.values()})
            ended, _ = concurrent.futures.wait(
                running,
                timeout=_POLL_SECS,
                return_when=concurrent.futures.FIRST_COMPLETED,
            )
            for future in ended:
                index, unit, progress = running.pop(future)
                try:
                    yield future.result()
                except concurrent.futures.process.BrokenProcessPool:
                    reason = "the worker process died (out of memory, or killed)"
                    failure = failures.of_unit(unit, reason)
                    failures.write(self._folder, failure)
                    self._executors[index].shutdown(wait=False)
                    self._executors[index] = self._start(index)
                    yield 0, [failure]
                progress.end()
                free.append(index)

    def _drain(self, progress: Mapping[int, "_Progress"]) -> None:
        while True:
            try:
                index, frac, text = self._messages.get_nowait()
            except queue.Empty:
                return
            if index in progress:
                progress[index].show(frac, text)


class _Progress:
    """A unit's part of the progress bar."""

    def __init__(self, bar: Any, weight: float):
        self._bar, self._weight, self._shown = bar, weight, 0.0

    def show(self, frac: float, text: str) -> None:
        """Move on to a fraction of the unit."""
        frac = min(1.0, frac)
        if frac > self._shown:
            self._bar.update((frac - self._shown) * self._weight)
            self._shown = frac
        self._bar.set_description_str(text, refresh=False)

    def end(self) -> None:
        """Count what is left as done: it ended early, or was not needed."""
        self._bar.update((1.0 - self._shown) * self._weight)
        self._shown = 1.0


_MESSAGES: Any = None


def _initialize(core: int, messages: Any) -> None:
    """Prepare a worker: one core, Ctrl-C is the parent's."""
    global _MESSAGES
    _MESSAGES = messages
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Leave when the parent is gone, killed perhaps: nobody waits for the results."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _work(config, unit, folder, rates, index):
    last = 0.0

    def show(frac: float, text: str) -> None:
        nonlocal last
        if time.monotonic() - last > _POLL_SECS:
            last = time.monotonic()
            _MESSAGES.put((index, frac, text))

    return worker.run_unit(config, unit, folder, rates, show)


def _bar(total: float) -> Any:
    return tqdm.tqdm(
        total=total,
        disable=None,  # Silent when standard error is not a terminal.
        dynamic_ncols=True,
        bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
    )
