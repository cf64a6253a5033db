"""A study whose runs are made up, for tests of reports: nothing is trained."""

import math

import numpy as np

from configs.evaluate import base
from evaluate.optimizers import names as optimizers
from evaluate.report import entries
from evaluate.sweep import axes, cells, contenders, readings

# Label, best loss at the base.
CONTENDERS = (
    ("mulo · cifar8 <β>", 0.9),
    ("adamw", 1.0),
    ("mu_soap_blocked", 0.92),
    ("sgd", 1.25),
    ("null_muon", 1.5),
)


def sweep_config(**changes) -> axes.SweepConfig:
    values = base.sweep().to_dict()
    values |= {
        "tasks": ("mlp-d3-cifar10:8x8:gray", "mlp-w32-cifar10:8x8:gray"),
        "widths": (32, 64, 256),
        "depths": (3, 6),
        "horizons": (40, 120),
        "design": "star",
        "optimizers": ("mulo", "adamw", "mu_soap_blocked", "sgd", "null_muon"),
        "bootstrap_samples": 100,
    }
    return axes.SweepConfig.from_dict(values | changes)


def study(
    config: axes.SweepConfig | None = None,
    *,
    names=CONTENDERS,
    diverging: str = "sgd",
    activations: bool = True,
    chance_loss: float | None = math.log(10),
) -> entries.Study:
    """Make up a study: ``diverging`` diverges at the widest setting."""
    config = config or sweep_config()
    settings = config.settings
    widest = max(s.width for s in settings)
    entered = tuple(_contender(config, label) for label, _ in names)
    found, curves = [], []
    for contender, (name, loss) in zip(entered, names, strict=True):
        for setting in settings:
            bad = name == diverging and setting.width == widest > settings[0].width
            level = loss * (32 / setting.width) ** 0.1 * (3 / setting.depth) ** 0.05
            kinds = {"lambda": ("untouched",), "fixed": ("fixed",)}.get(
                contender.spec.step_size, ("per_cell", "transferred")
            )
            for kind in kinds:
                if kind == "transferred":
                    level *= 1.03
                runs = tuple(
                    _reading(
                        contender,
                        setting,
                        seed,
                        math.nan if bad else level,
                        activations,
                        chance_loss,
                    )
                    for seed in range(config.num_seeds)
                )
                looked = 7 if kind == "per_cell" else 0
                found.append(
                    entries.Entry(
                        setting=setting,
                        contender=contender,
                        tuning=kind,
                        schedule=contender.schedules[0],
                        learning_rate=1.0 if kind == "untouched" else 0.01,
                        interior=True if kind == "per_cell" else None,
                        tuning_runs=looked,
                        tuning_steps=looked * setting.horizon_steps,
                        readings=runs,
                    )
                )
            if len(contender.grid) > 1:
                curves.append(_curve(contender, setting, level))
    return entries.Study(
        config=config,
        settings=settings,
        contenders=entered,
        not_run=(contenders.NotRun("mu_velo", "weights missing, fetch <them>"),),
        failures=(),
        entries=tuple(found),
        rate_curves=tuple(curves),
        num_cells=100,
        num_diverged_cells=4,
        about={
            "command": "python -m evaluate --config=a.py --theta='<b>'",
            "environment": {"python": "3.11"},
            "config": {"widths": list(config.widths)},
        },
    )


def _contender(config, label) -> contenders.Contender:
    spec = optimizers.get(label if label in config.optimizers else "mulo")
    grid = {
        "lambda": (0.25, 0.5, 1.0, 2.0, 4.0),
        "fixed": (0.01,),
        "rate": (1e-3, 3e-3, 0.01, 0.03, 0.1),
    }[spec.step_size]
    return contenders.Contender(
        label=label,
        spec=spec,
        schedules=(spec.schedule,),
        grid=grid,
        hyper=(),
        theta=None,
        theta_sha256="",
        needs_num_steps=False,
    )


def _curve(contender, setting, level) -> entries.RateCurve:
    middle = 1.0 if contender.spec.step_size == "lambda" else 0.01
    away = [abs(math.log10(rate / middle)) for rate in contender.grid]
    losses = [level * (1 + 0.1 * x**2) for x in away]
    if contender.spec.step_size == "rate":
        losses[-1] = math.inf
    return entries.RateCurve(
        setting=setting,
        contender=contender,
        schedule=contender.schedules[0],
        rates=contender.grid,
        losses=tuple(losses),
    )


def _reading(contender, setting, seed, level, activations, chance_loss):
    horizon = setting.horizon_steps
    rng = np.random.default_rng([seed, setting.width, setting.depth, horizon])
    steps = np.arange(horizon)
    losses = level + (2.2 - np.nan_to_num(level)) * np.exp(-8 * steps / horizon)
    losses = losses + 0.02 * rng.standard_normal(horizon)
    if math.isnan(level):
        losses = np.where(steps < horizon // 3, 2.3 + 0.05 * steps, np.nan)
    valid_steps = np.unique(np.linspace(1, horizon, 5).astype(np.int32))
    valid = np.where(np.isnan(level), np.nan, losses[valid_steps - 1] + 0.05)
    accuracy = np.full(len(valid), math.nan if chance_loss is None else 0.5)
    changes = {
        layer: np.sqrt(valid_steps) * (0.1 + 0.01 * setting.width / 32)
        for layer in ("hidden_0", "hidden_1", "readout")
    }
    program = cells.Program(
        task=setting.task,
        optimizer=contender.optimizer,
        schedule=contender.schedules[0],
        hyper=(),
        horizon_steps=horizon,
        batch_size=setting.batch_examples,
        theta_sha256="",
        num_train_examples=100,
        num_valid_examples=10,
    )
    result = cells.CellResult(
        cell=cells.Cell(program=program, learning_rate=0.01, seed=seed),
        losses=losses.astype(np.float32),
        valid_steps=valid_steps,
        valid_losses=valid.astype(np.float32),
        valid_accuracies=accuracy.astype(np.float32),
        chance_loss=chance_loss,
        secs_per_step=1e-3 * (1 + len(contender.label) / 10),
        lanes=1,
        activation_changes=changes if activations else {},
    )
    return readings.read_off(result, horizon)
