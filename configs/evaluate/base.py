"""What every sweep can say; the suites beside this file state what differs."""

import ml_collections
from ml_collections import config_dict

from evaluate.optimizers import names as optimizers
from mulo import _hints as hints


def sweep() -> ml_collections.ConfigDict:
    """Return a sweep's configuration with its defaults."""
    c = config_dict.create(
        # Axes. A task that leaves out a width or depth is run at every one of these;
        # one that ends in @5000 is run for so many steps, whatever the horizons.
        tasks=("mlp-d3-cifar10:8x8:gray",),
        widths=(32,),
        depths=(),
        horizons=(1_000,),  # Steps.
        # "product": all with all; "star": one axis at a time, from the first values.
        design="product",
        optimizers=(),  # Names of evaluate/optimizers/names.py.
        optional=(),  # Those of them that may be without weights: the report says so.
        thetas=(),  # As --theta, which takes their place.
        schedules=("default",),  # Or constant, cosine, wsd, linear, auto.
        num_seeds=3,  # Seeds 0, 1, …: initial parameters and batches.
        batch_examples=128,
        batch_examples_of=config_dict.create(  # By kind of task, where it differs.
            transformer=16,
            vit=64,
        ),
        # Tuning: see evaluate/sweep/tuning.py.
        tuning_seeds=1,  # Seeds 0 … that learning rates are chosen by.
        tuning_refinements=4,  # Most rates tried beyond the grid, per setting.
        transfer=True,  # Also report rates found at the base setting, everywhere.
        published=True,  # Also report published hyper-parameters, where there are.
        # Factors on the step of rules used as meta-trained, for sensitivity curves.
        lambdas=(0.25, 0.5, 1.0, 2.0, 4.0),
        lambdas_at="base",  # Or "all" settings, or "none".
        valid_points=10,  # Validations along a run.
        activations=False,  # Measure how far activations move, with each of them.
        data_dir="",  # Where tensorflow-datasets keeps its data; empty: its default.
        data_budget_bytes=8 << 30,  # A larger data set is refused.
        memory_budget_bytes=4 << 30,  # Of runs side by side, on accelerators.
        jobs=0,  # Worker processes; 0: one per core on CPUs, one elsewhere.
        lanes=0,  # Runs side by side in a program; 0: one on CPUs, by memory elsewhere.
        reference_curves="",  # JSON of VeLOdrome's curves, for speed-ups over them.
        bootstrap_samples=2_000,
        confidence_frac=0.95,
        bootstrap_seed=0,
    )
    # Of every optimizer, for --config.learning_rates.mu_lion="(1e-3,1e-2)" and
    # --config.hyper.mu_lion.b1=0.95. Grids: evaluate/optimizers/rates.py.
    specs = optimizers.SPECS.values()
    tuned = [s for s in specs if s.step_size == "rate"]
    c.learning_rates = config_dict.create(**{s.name: s.grid for s in tuned})
    c.hyper = config_dict.create(**{s.name: dict(s.hyper) for s in specs if s.hyper})
    c.hyper.mu_sgd.momentum = c.hyper.sgd.momentum = 0.9
    # The strongest of the blocks tried; at widths up to 64 it is the whole basis.
    c.hyper.mu_soap_blocked.block_size = c.hyper.soap_blocked.block_size = 64
    return c


# Everyone a suite invites. Learned rules that are only there if their weights are:
# VeLO and Celo in the parametrization they were made for, Celo2 in both, and the SP
# twin of a μLO.
LEARNED = ("mulo", "small_fc", "velo", "celo", "celo2", "mu_celo2")
OPTIONAL = LEARNED[1:]
BASELINES = (
    "adamw",
    "mu_adam",
    "mu_soap_blocked",
    "mu_muon",
    "mu_shampoo",
    "mu_lion",
    "mu_adafactor",
)
NULL_MODELS = ("null_adam", "null_muon", "theta_init")
VARIANTS = ("smoke", "cpu", "gpu", "paper")


def suite(variant: str) -> ml_collections.ConfigDict:
    """Return what the suites have in common in a variant, one of `VARIANTS`.

    ``cpu`` keeps to coarse grids (a factor of ten, refined by two) and three seeds, so
    that a suite takes less than an hour on two cores.
    """
    if variant not in VARIANTS:
        raise ValueError(
            f"variant must be one of {', '.join(VARIANTS)}; got {variant!r}"
            f"{hints.nearest(variant, VARIANTS)}"
        )
    c = sweep()
    c.optimizers = (*LEARNED, *BASELINES, *NULL_MODELS)
    c.optional = OPTIONAL
    c.thetas = ("mulo-m", "mulo-s")
    if variant == "smoke":
        c.optimizers = ("mulo", "celo", "adamw", "null_muon", "theta_init")
        c.thetas = ("mulo-s",)
        c.horizons = (20,)
        c.num_seeds = 2
        c.batch_examples = 16
        c.tuning_refinements = 1
        c.lambdas = (0.5, 1.0)
        c.valid_points = 2
        c.learning_rates.adamw = (1e-3, 1e-2)
        c.bootstrap_samples = 200
        c.jobs = 1
    elif variant == "cpu":
        for name, grid in _COARSE.items():
            c.learning_rates[name] = grid
    elif variant in ("gpu", "paper"):
        c.num_seeds = 5
        c.tuning_seeds = 2 if variant == "gpu" else 5
    return c


def without(c: ml_collections.ConfigDict, *names: str) -> tuple[str, ...]:
    """Return a sweep's optimizers without some."""
    return tuple(name for name in c.optimizers if name not in names)


# Rates a factor of about four apart around what was found best at the base of the
# suites; the search leaves the grid where it must.
_COARSE = {
    "adamw": (1e-3, 4e-3, 1.6e-2),
    "mu_adam": (0.025, 0.1, 0.4),
    "mu_soap_blocked": (0.025, 0.1, 0.4),
    "mu_muon": (0.0075, 0.03, 0.12),
    "mu_shampoo": (0.025, 0.1, 0.4),
    "mu_lion": (2.5e-3, 1e-2, 4e-2),
    "mu_adafactor": (0.04, 0.16, 0.64),
    "celo2": (1e-4, 4e-4, 1.6e-3),
    "mu_celo2": (1e-3, 4e-3, 1.6e-2),
}
