"""Learned optimizers that were never meta-trained, for coordinate checks and tests."""

import jax

import mulo
from evaluate.optimizers import names

# What a coordinate check wants beside the rules' smallest sizes: large steps, and more
# units in LSTMs.
_ONE_OF_EACH = {
    "hidden_layers": 1,
    "step_mult": 0.01,
    "initial_momentum_decays": (0.9,),
    "initial_adafactor_decays": (0.9,),
}
_CHANGES = {
    "small_fc": _ONE_OF_EACH,
    "annealed_fc": {**_ONE_OF_EACH, "warmup_frac": 0.0},
    "elo": {"learning_rate": 0.1},
    "celo2": {"learning_rate": 0.01},
    "celo2_base": {"learning_rate": 0.03},
    "learned_adam": {"initial_learning_rate": 0.03},
    "velo": {
        "lstm_hidden_size": 8,
        "interp_mult": 1.0,  # At 100, controls drawn at random make steps explode.
        "step_mult": 0.3,
        "param_scale_mult": False,
    },
    "celo": {"lstm_hidden_size": 8, "step_mult": 0.03, "param_scale_mult": False},
    "celo_adam": {"lstm_hidden_size": 8, "step_mult": 0.1},
    "lstm_ff": {"lstm_hidden_size": 8, "step_mult": 0.03},
}
# Standard deviation of the noise on every number of a theta that is made as a nominal
# rule: its first layers, among others, would have no part in the step.
_SPREAD = {"learned_muon": 0.1}


def pretrained(name: str = "mulo", seed: int = 0) -> mulo.Pretrained:
    """Make a small learned optimizer that was never meta-trained.

    Its steps are a hundredth of what weights are, of no use and yet large enough for
    ten of them to change what a network does: enough for a coordinate check, which
    asks how a step's effect depends on width and not whether it helps.

    Args:
      name: A learned optimizer's name; ``mulo`` makes a SmallFC.
      seed: Of theta.

    Raises:
      ValueError: If the optimizer is unknown or not learned.
    """
    spec = names.get(name)
    if not spec.learned:
        raise ValueError(f"{name} is not learned: it has no theta.")
    rule_name = spec.rule or "small_fc"
    info = mulo.optimizers.info(rule_name)
    smallest = info.architecture.TINY
    changes = _CHANGES.get(rule_name, {})
    rule = info.architecture(**{**smallest, **info.fixed, **changes})
    theta = rule.init(jax.random.key(seed))
    if rule_name in _SPREAD:
        leaves, treedef = jax.tree.flatten(theta)
        keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
        theta = treedef.unflatten(
            x + _SPREAD[rule_name] * jax.random.normal(key, x.shape)
            for x, key in zip(leaves, keys, strict=True)
        )
    return mulo.Pretrained(rule, theta, {})
