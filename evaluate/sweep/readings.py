"""What a finished run says at a horizon: losses, accuracy, whether it diverged.

A run at a constant learning rate serves every horizon up to its own: the numbers of a
shorter one are read off its curves.
"""

import dataclasses
import math

import numpy as np

from evaluate.sweep import cells as cells_lib
from evaluate.sweep import curves

DIVERGENCE_RULE = (
    "a run diverged when a minibatch loss up to the horizon was not finite, or when "
    "its final training loss exceeds min(1.1 * max(loss at step 0, ln(classes)), 2 * "
    "ln(classes)), or 1.1 * loss at step 0 where there are no classes"
)
FINAL_LOSS_RULE = (
    "final training loss = mean minibatch loss of the last 5 % of the steps, at least "
    "10; validation loss and accuracy are over the whole validation split, after the "
    "last step; the early-stopped validation loss is the lowest of those measured on "
    "the way"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """A run up to a horizon of H steps. Losses are the task's; NaN: not finite."""

    result: cells_lib.CellResult
    horizon_steps: int
    initial_train_loss: float
    final_train_loss: float
    area_under_curve: float  # Mean training loss over all H steps.
    final_valid_loss: float
    best_valid_loss: float  # Early-stopped.
    final_valid_accuracy: float  # NaN for tasks without.
    first_nonfinite_step: int | None
    diverged: bool  # As DIVERGENCE_RULE.

    @property
    def seed(self) -> int:
        """Of the initial parameters and the batches."""
        return self.result.cell.seed

    @property
    def learning_rate(self) -> float:
        """Of the run; for rules used as meta-trained, the factor on their step."""
        return self.result.cell.learning_rate

    @property
    def losses(self) -> np.ndarray:
        """Minibatch training losses, shape=(H,)."""
        return self.result.losses[: self.horizon_steps]

    @property
    def secs_per_step(self) -> float:
        """Wall clock of a step, without compilation."""
        return self.result.secs_per_step


def read_off(result: cells_lib.CellResult, horizon_steps: int) -> Reading:
    """Read a run off at a horizon.

    Args:
      result: A finished run.
      horizon_steps: Steps, at most those of the run.

    Raises:
      ValueError: If the horizon is longer than the run.
    """
    if not 1 <= horizon_steps <= len(result.losses):
        raise ValueError(
            f"horizon_steps must lie in 1 … {len(result.losses)}, the steps of the "
            f"run; got {horizon_steps}."
        )
    losses = np.asarray(result.losses[:horizon_steps], np.float64)
    finite = np.isfinite(losses)
    first_nonfinite = None if finite.all() else int(np.argmin(finite))
    # A run that overflowed and came back is not a result either.
    final = curves.final_loss(losses, horizon_steps)
    limit = 1.1 * float(losses[0])
    if result.chance_loss is not None:
        limit = min(max(limit, 1.1 * result.chance_loss), 2 * result.chance_loss)
    sofar = result.valid_steps <= horizon_steps
    valid = math.nan
    accuracy = math.nan
    at = np.flatnonzero(result.valid_steps == horizon_steps)
    if len(at):
        accuracy = float(result.valid_accuracies[at[0]])
        if first_nonfinite is None:
            valid = float(result.valid_losses[at[0]])
    measured = result.valid_losses[sofar]
    measured = measured[np.isfinite(measured)]
    return Reading(
        result=result,
        horizon_steps=horizon_steps,
        initial_train_loss=float(losses[0]),
        final_train_loss=final,
        area_under_curve=curves.area_under_curve(losses, horizon_steps),
        final_valid_loss=valid if math.isfinite(valid) else math.nan,
        best_valid_loss=float(measured.min()) if len(measured) else math.nan,
        final_valid_accuracy=accuracy,
        first_nonfinite_step=first_nonfinite,
        diverged=not (math.isfinite(valid) and final <= limit),
    )
