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
# Sizes that compile fast; the rest is at its defaults.
SMALL = {
    "small_fc": {"hidden_size": 4, "step_mult": 0.1},
    "annealed_fc": {"hidden_size": 4, "step_mult": 0.1},
    "elo": {"hidden_size": 4},
    "celo2": {"hidden_size": 4},
    "celo2_base": {"hidden_size": 4},
    "velo": {"lstm_hidden_size": 4, "param_inits": 2, "step_mult": 0.1},
    "celo": {"lstm_hidden_size": 4, "step_mult": 0.1},
    "celo_adam": {"lstm_hidden_size": 4, "step_mult": 0.1},
    "lstm_ff": {"hidden_size": 4, "lstm_hidden_size": 4, "step_mult": 0.1},
    # Without weight decay, which goes on in a leaf that makes no step.
    "soap": {"block_size": 4, "precondition_frequency": 2, "weight_decay": 0.0},
    "shampoo": {"block_size": 4},
}
NAMES = mulo.optimizers.names()
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
    theta = None
    if mulo.optimizers.info(name).learned:
        theta = theta_for(name, hyper)
    arguments = {"learning_rate": 0.01, "num_steps": NUM_STEPS, "theta": theta}
    return mulo.optimizers.get(name, mup=scalings, **(arguments | hyper | changes))


def draw(seed, dtype="float32", names=tuple(SHAPES)):
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(rng.standard_normal(SHAPES[k]), dtype) for k in names}
