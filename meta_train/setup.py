"""From a config to a trainer: where ConfigDicts end and dataclasses begin."""

import dataclasses
import functools
import os
import pathlib
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

import mulo
import tasks
from meta_train import (
    estimators,
    imitation,
    labels,
    loop,
    meta_optimizer,
    objective,
    probes,
    rules,
    trainer,
    unroll,
)
from meta_train import population as population_lib
from meta_train import workdir as workdir_lib
from mulo import _provenance as provenance
from tasks import augmentation, suites
from tasks.data import tfds_sets


def build(config: Mapping[str, Any]) -> trainer.MetaTrainer:
    """Make the trainer a config describes; opens its data sets.

    Args:
      config: As the files in ``configs/`` return it, as a plain nested dict.

    Raises:
      ValueError: If a value is out of range, a task, rule or theta unknown.
    """
    rules.resolve(config)  # A wrong name should not wait for data sets.
    estimators.find(config["estimator"]["name"])
    imitated = imitation.ImitationConfig(**config["imitation"])
    meta = meta_optimizer.MetaOptimizerConfig(**config["meta_optimizer"])
    meta.make()
    goal = objective.ObjectiveConfig(**config["objective"])
    population = population_lib.PopulationConfig(**config["population"])
    names = task_names(config)
    estimator_configs = _estimator_configs(config, names)
    augment = augmentation.AugmentConfig(**config["augment"])
    families = [
        augmentation.family(
            tasks.get(
                name,
                batch_size=batch,
                data_dir=config["data_dir"] or None,
                data_budget_bytes=config["data_budget_bytes"],
            ),
            augment,
        )
        for name, batch in zip(names, batch_sizes(config, names), strict=True)
    ]
    mup = any(family.task.scalings() is not None for family in families)
    rule = rules.make(config, mup=mup)
    init_theta = None
    if config["init_theta"]:
        init_theta = _init_theta(config["init_theta"], rule)
    inners = [
        unroll.Inner(
            rule=rule,
            family=family,
            loss_ceiling=config["loss_ceiling"],
            imitation=imitated,
        )
        for family in families
    ]
    for inner in inners:
        inner.check()
        chance = inner.family.task.chance_loss
        if chance is not None and chance >= config["loss_ceiling"]:
            raise ValueError(
                f"loss_ceiling must exceed {chance:.3g} nats, the loss of guessing in "
                f"{inner.family.task.name!r}, or no early loss tells anything; got "
                f"{config['loss_ceiling']}."
            )
    make: Any = trainer.MetaTrainer
    if population.size:
        make = functools.partial(population_lib.Population, population=population)
    return make(
        rule=rule,
        inners=inners,
        estimator_config=estimator_configs,
        meta_optimizer_config=meta,
        seed=config["run"]["seed"],
        objective=goal,
        normalize_grads=config["normalize_grads"],
        task_clip_norm=config["task_clip_norm"],
        probes=_probes(config, rule),
        init_theta=init_theta,
        particles_at_once=config["run"]["particles_at_once"],
    )


def _init_theta(name: str, rule: mulo.Rule) -> Any:
    """A stored theta to go on from: of this rule, or of one that it adds options to."""
    pretrained = mulo.load(name)
    try:
        return rule.extend(pretrained.theta, pretrained.rule)
    except ValueError as error:
        raise ValueError(
            f"init_theta {name!r} is a theta of {pretrained.rule}, the config's rule "
            f"is {rule}: make config.rule the same. {error}"
        ) from error


def _estimator_configs(
    config: Mapping[str, Any], names: Sequence[str]
) -> list[estimators.EstimatorConfig]:
    """The estimators' settings, one per task; two of them may be given per task."""
    section = config["estimator"]
    of_task = {
        key: per_task(f"estimator.{key}", section[key], names)
        for key in ("num_pairs", "max_length_steps")
    }
    configs = []
    for i in range(len(names)):
        own: dict[str, Any] = {key: values[i] for key, values in of_task.items()}
        configs.append(estimators.EstimatorConfig(**{**section, **own}))
    return configs


def _probes(config: Mapping[str, Any], rule: mulo.Rule) -> probes.Probes | None:
    """Open a config's probes; says on stderr which have no data here."""
    section = probes.ProbeConfig(**config["probes"])
    if not section.tasks:
        return None
    names = probe_names(config)
    batches = per_task("probes.batch_examples", section.batch_examples, names)
    steps = per_task("probes.steps", section.steps, names)
    opened: dict[str, probes.Probe | None] = {}
    named = list(zip(names, batches, strict=True))
    for i, label in enumerate(labels.labels(named)):
        try:
            task = tasks.get(
                names[i],
                batch_size=batches[i],
                data_dir=config["data_dir"] or None,
                data_budget_bytes=config["data_budget_bytes"],
            )
        except tfds_sets.DataMissing as error:
            reason = " ".join(str(error).split())
            print(f"The run goes on without probe {label}: {reason}", file=sys.stderr)
            opened[label] = None
            continue
        inner = unroll.Inner(
            rule=rule,
            family=tasks.TaskFamily(task),
            loss_ceiling=config["loss_ceiling"],
        )
        inner.check()
        opened[label] = probes.Probe(inner, steps[i], section.num_seeds)
    return probes.Probes(opened, every_steps=section.every_steps)


def resolve(config: Mapping[str, Any]) -> dict[str, Any]:
    """Write out what a config leaves to the machine, before a workdir is claimed.

    A run goes on with the tasks it began with: if a suite means others by now, because
    data came or went, the workdir says so instead of mixing them. Of the settings of
    rules, those of the one it trains are kept.

    Args:
      config: As for :func:`build`.

    Returns:
      The config with ``tasks`` as :func:`task_names`, ``probes.tasks`` as
      :func:`probe_names` and ``rule`` as :func:`rules.resolve` gives them, without
      ``rule_defaults``.

    Raises:
      ValueError: As the two.
    """
    written_out = {
        **config,
        "tasks": tuple(task_names(config)),
        "rule": rules.resolve(config),
    }
    probe_config = config["probes"]
    written_out["probes"] = {**probe_config, "tasks": tuple(probe_names(config))}
    written_out.pop("rule_defaults", None)
    return written_out


def task_names(config: Mapping[str, Any]) -> list[str]:
    """Names of the tasks a config trains on, with mixtures and suites written out.

    Raises:
      ValueError: If one is malformed or given twice with the same batch size, a
        suite's data are missing, or there is another number of batch sizes.
    """
    names = [
        name
        for entry in config["tasks"]
        for name in suites.expand(entry, config["data_dir"] or None)
    ]
    pairs = list(zip(names, batch_sizes(config, names), strict=True))
    if len(set(pairs)) < len(pairs):
        raise ValueError(
            f"tasks must be distinct, got {config['tasks']}, that is {names}. The same "
            "task may come again with another batch size (batch_examples)."
        )
    return names


def probe_names(config: Mapping[str, Any]) -> list[str]:
    """Names of a config's probes, with mixtures and suites written out.

    Raises:
      ValueError: As :func:`task_names`.
    """
    names = [
        name
        for entry in config["probes"]["tasks"]
        for name in suites.expand(entry, config["data_dir"] or None, check_data=False)
    ]
    if not names:  # Turned off; what there is for each probe does not matter.
        return names
    batches = per_task(
        "probes.batch_examples", config["probes"]["batch_examples"], names
    )
    if len(set(zip(names, batches, strict=True))) < len(names):
        raise ValueError(
            f"probes.tasks must be distinct, or have several batch sizes, got {names}."
        )
    return names


def batch_sizes(config: Mapping[str, Any], names: Sequence[str]) -> list[int]:
    """Examples per batch of each task of :func:`task_names`.

    Raises:
      ValueError: If ``batch_examples`` is neither one integer nor one per task.
    """
    return per_task("batch_examples", config["batch_examples"], names)


def per_task(key: str, value: Any, names: Sequence[str]) -> list[int]:
    """Spread one integer, or one per task, over the tasks.

    Args:
      key: What it is, for errors.
      value: An integer, or a sequence of them.
      names: Of the tasks.

    Raises:
      ValueError: If it is neither, or the numbers differ.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return [value] * len(names)
    integers = isinstance(value, tuple | list) and all(
        isinstance(item, int) and not isinstance(item, bool) for item in value
    )
    if not integers:
        raise ValueError(f"{key} must be an integer, or one per task, got {value!r}.")
    if len(value) != len(names):
        raise ValueError(
            f"{key} must be one integer or one per task, got {len(value)} for "
            f"{len(names)} tasks: {list(value)} for {list(names)}."
        )
    return list(value)


def card(config: Mapping[str, Any]) -> dict[str, Any]:
    """Facts about a run for theta's card; the config is one of :func:`resolve`."""
    devices = jax.devices()
    parsed = [tasks.names.parse(name) for name in config["tasks"]]
    return {
        "parametrization": "standard" if all(p.sp for p in parsed) else "mup",
        "meta_training": dict(config),
        "data": sorted({str(p.data) for p in parsed}),
        "hardware": f"{len(devices)} x {devices[0].device_kind}, "
        f"{os.cpu_count()} CPUs, {platform.machine()}",
        "jax": jax.__version__,
        "git_commit": provenance.git_commit(changes=True) or "",
        "started": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def continued(card: Mapping[str, Any], workdir: pathlib.Path) -> dict[str, Any]:
    """The card of a run that may be one that goes on: begun when it was, by that code.

    Args:
      card: From :func:`card`.
      workdir: Of the run; what it holds of theta tells.
    """
    try:
        earlier = mulo.load(workdir / workdir_lib.THETA).card
    except (ValueError, OSError):
        return dict(card)
    began = {k: earlier[k] for k in ("started", "git_commit") if k in earlier}
    commits = [*earlier.get("resumed_by", ()), card["git_commit"]]
    others = [c for c in dict.fromkeys(commits) if c != began.get("git_commit")]
    return {**card, **began, **({"resumed_by": others} if others else {})}


def run_config(config: Mapping[str, Any]) -> loop.RunConfig:
    """The part about duration and files."""
    fields = {field.name for field in dataclasses.fields(loop.RunConfig)}
    return loop.RunConfig(**{k: config["run"][k] for k in fields})
