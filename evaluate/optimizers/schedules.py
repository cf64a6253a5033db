"""Learning-rate schedules that a sweep gives to optimizers: factors on the rate.

========= ==========================================================================
constant  1 throughout
cosine    linear warm-up over 2 % of the steps, then a cosine down to 1 %
wsd       the same warm-up, then 1, then a linear tail over the last 20 % down to 1 %
linear    the same warm-up, then a line down to 1 %
========= ==========================================================================

``auto`` in a configuration stands for the better of cosine and wsd, per optimizer and
tuning; ``default`` for what the optimizer is meant to have: cosine for hand-designed
rules, what they were meta-trained with for learned ones.
"""

import math
from collections.abc import Callable

import jax
import optax

from mulo import _hints as hints

Factor = Callable[[jax.typing.ArrayLike], jax.typing.ArrayLike]

_WARMUP_FRAC, _TAIL_FRAC, _END = 0.02, 0.2, 0.01

AUTO = ("cosine", "wsd")
DEFAULT = "default"
NAMES = ("constant", "cosine", "wsd", "linear")
CHOICES = (DEFAULT, *NAMES, "auto")


def factor(name: str, num_steps: int) -> Factor:
    """Return a schedule as a function of the number of steps taken before.

    Args:
      name: One of :data:`NAMES`.
      num_steps: Length T of the run; at step T and later the factor stays at its end.

    Returns:
      int32 scalar, 0 … T - 1, to a float32 factor in (0, 1].

    Raises:
      ValueError: If there is no such schedule, or no step.
    """
    check(name, NAMES)
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}.")
    if name == "constant":
        return optax.constant_schedule(1.0)
    warmup = math.ceil(_WARMUP_FRAC * num_steps)
    # Neither the first step nor the last is lost: the line starts above zero and the
    # end is reached with the last step.
    begin = optax.linear_schedule(1 / (warmup + 1), 1.0, warmup)
    rest = max(1, num_steps - 1 - warmup)
    if name == "cosine":
        parts = [optax.cosine_decay_schedule(1.0, rest, alpha=_END)]
    elif name == "linear":
        parts = [optax.linear_schedule(1.0, _END, rest)]
    else:
        tail = min(rest, math.ceil(_TAIL_FRAC * num_steps))
        parts = [
            optax.linear_schedule(1.0, _END, tail, transition_begin=rest - tail),
        ]
    return optax.join_schedules([begin, *parts], [warmup])


def check(name: str, known: tuple[str, ...] = CHOICES) -> None:
    """Raise ValueError, with the nearest name, if there is no such schedule."""
    if name not in known:
        raise ValueError(
            f"schedule must be one of {', '.join(known)}; got {name!r}"
            f"{hints.nearest(name, known)}"
        )
