"""From a config to a trainer: where ConfigDicts end and dataclasses begin."""

import dataclasses
import os
import pathlib
import platform
import subprocess
import time
from collections.abc import Mapping
from typing import Any

import jax

import mulo
import tasks
from meta_train import loop, meta_optimizer, pes, rules, unroll
from tasks import augmentation, suites


def build(config: Mapping[str, Any]) -> loop.MetaTrainer:
    """Make the trainer a config describes; opens its data sets.

    Args:
      config: As the files in ``configs/`` return it, as a plain nested dict.

    Raises:
      ValueError: If a value is out of range, a task, rule or theta unknown.
    """
    rules.resolve(config)  # A wrong name should not wait for data sets.
    names = task_names(config)
    augment = augmentation.AugmentConfig(**config["augment"])
    families = [
        augmentation.family(
            tasks.get(
                name,
                batch_size=config["batch_examples"],
                data_dir=config["data_dir"] or None,
                data_budget_bytes=config["data_budget_bytes"],
            ),
            augment,
        )
        for name in names
    ]
    mup = any(family.task.scalings() is not None for family in families)
    rule = rules.make(config, mup=mup)
    init_theta = None
    if config["init_theta"]:
        pretrained = mulo.load(config["init_theta"])
        if pretrained.rule != rule:
            raise ValueError(
                f"init_theta {config['init_theta']!r} is a theta of {pretrained.rule}, "
                f"the config's rule is {rule}: make config.rule the same."
            )
        init_theta = pretrained.theta
    inners = [
        unroll.Inner(rule=rule, family=family, loss_ceiling=config["loss_ceiling"])
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
    return loop.MetaTrainer(
        rule=rule,
        inners=inners,
        pes_config=pes.PESConfig(**config["pes"]),
        meta_optimizer_config=meta_optimizer.MetaOptimizerConfig(
            **config["meta_optimizer"]
        ),
        seed=config["run"]["seed"],
        init_theta=init_theta,
    )


def resolve(config: Mapping[str, Any]) -> dict[str, Any]:
    """Write out what a config leaves to the machine, before a workdir is claimed.

    A run goes on with the tasks it began with: if a suite means others by now, because
    data came or went, the workdir says so instead of mixing them. Of the settings of
    rules, those of the one it trains are kept.

    Args:
      config: As for :func:`build`.

    Returns:
      The config with ``tasks`` as :func:`task_names` and ``rule`` as
      :func:`rules.resolve` gives them, without ``rule_defaults``.

    Raises:
      ValueError: As the two.
    """
    written_out = {
        **config,
        "tasks": tuple(task_names(config)),
        "rule": rules.resolve(config),
    }
    written_out.pop("rule_defaults", None)
    return written_out


def task_names(config: Mapping[str, Any]) -> list[str]:
    """Names of the tasks a config trains on, with mixtures and suites written out.

    Raises:
      ValueError: If one is malformed or given twice, or a suite's data are missing.
    """
    names = [
        name
        for entry in config["tasks"]
        for name in suites.expand(entry, config["data_dir"] or None)
    ]
    if len(set(names)) < len(names):
        raise ValueError(
            f"tasks must be distinct, got {config['tasks']}, that is {names}."
        )
    return names


def card(config: Mapping[str, Any]) -> dict[str, Any]:
    """Facts about a run for theta's card; the config is one of :func:`resolve`."""
    devices = jax.devices()
    return {
        "meta_training": dict(config),
        "data": sorted({tasks.names.parse(name).data for name in config["tasks"]}),
        "hardware": f"{len(devices)} x {devices[0].device_kind}, "
        f"{os.cpu_count()} CPUs, {platform.machine()}",
        "jax": jax.__version__,
        "git_commit": git_commit(),
        "started": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def git_commit() -> str:
    """Commit of this checkout, with "+" if it has changes; empty outside of git."""
    here = pathlib.Path(__file__).parent

    def git(*args):
        done = subprocess.run(
            ["git", *args], cwd=here, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def run_config(config: Mapping[str, Any]) -> loop.RunConfig:
    """The part about duration and files."""
    fields = {field.name for field in dataclasses.fields(loop.RunConfig)}
    return loop.RunConfig(**{k: config["run"][k] for k in fields})
