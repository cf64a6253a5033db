"""Every optimizer of the registry, small, for what is asked of all of them."""

import jax
import jax.numpy as jnp
import numpy as np

import mulo
from mulo import mup

SHAPES = {
    "scalar": (),
    "b": (6,),
    "w": (6, 6),
    "out": (6, 3),
    "conv": (2, 2, 6, 6),
}
NARROW = {
    "scalar": (),
    "b": (4,),
    "w": (4, 4),
    "out": (4, 3),
    "conv": (2, 2, 4, 4),
}
FEW = ("w", "b")
NAMES = mulo.optimizers.names()
LEARNED = tuple(name for name in NAMES if mulo.optimizers.info(name).learned)
_STEPS = ("small_fc", "annealed_fc", "velo", "celo", "celo_adam", "lstm_ff")
_AVERAGES = {
    "initial_momentum_decays": (0.9, 0.99),
    "initial_adafactor_decays": (0.9, 0.99),
}
_AVERAGING = "small_fc annealed_fc elo celo2_base velo celo".split()
# Sizes that compile fast, two averages of each kind for the same reason, and steps that
# show; the rest is at its defaults.
SMALL = {
    **{name: dict(mulo.optimizers.info(name).make.TINY) for name in LEARNED},
    # Without weight decay, which goes on in a leaf that makes no step.
    "soap": {"block_size": 4, "precondition_frequency": 2, "weight_decay": 0.0},
    "shampoo": {"block_size": 4},
}
SMALL |= {name: SMALL[name] | _AVERAGES for name in _AVERAGING}
SMALL["lstm_ff"] |= {"decays": (0.9, 0.99)}
SMALL |= {name: SMALL[name] | {"step_mult": 0.1} for name in _STEPS}
# Which matrices they orthogonalize is said by roles under μP, by rank without.
BY_ROLE = ("muon", "celo2", "learned_muon")
# These take a matrix's fan-in and fan-out from its shape where there is no μP tree.
BY_SHAPE = ("learned_muon",)
NUM_STEPS = 100


def shapes(sizes):
    return {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in sizes.items()}


SCALINGS = mup.infer(shapes(NARROW), shapes(SHAPES))


def theta_for(name, hyper):
    optimizer = mulo.optimizers.info(name)
    rule = optimizer.make(**hyper, **optimizer.fixed)
    return rule.init(jax.random.key(0))


def make(name, scalings=SCALINGS, **changes):
    """The optimizer called ``name``, small, with a theta if it needs one."""
    hyper = SMALL.get(name, {})
    theta = theta_for(name, hyper) if name in LEARNED else None
    arguments = {"learning_rate": 0.01, "num_steps": NUM_STEPS, "theta": theta}
    return mulo.optimizers.get(name, mup=scalings, **(arguments | hyper | changes))


def draw(seed, dtype="float32", names=tuple(SHAPES)):
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(rng.standard_normal(SHAPES[k]), dtype) for k in names}
