"""Inner training: a task's parameters under a learned optimizer, a few steps on.

Axis names: S inner steps of a truncation.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

import mulo
import tasks
from meta_train import imitation as imitation_lib

_TASK_KEY = 1  # Folded into a run's key to draw its task.
_VALID_KEY = 2  # Folded into a step's key to draw its validation batch.
_MAX_BATCHES_BYTES = 2 * 2**20  # Of a truncation, to have its batches beforehand.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InnerState:
    """A training run in progress."""

    params: optax.Params
    opt_state: Any
    task_params: Any  # Which member of the family it trains.
    expert: Any = ()  # State of the optimizer that is imitated, if one is.


@dataclasses.dataclass(frozen=True)
class Inner:
    """Tasks of a family trained by a rule; pure functions of theta, made for vmap.

    Attributes:
      rule: Architecture of the learned optimizer, such as :class:`mulo.SmallFC`.
      family: What it trains; the ``scalings()`` of its tasks decide between μP and SP.
      loss_ceiling: Per-step losses enter the meta-loss no higher than this (nats),
        non-finite ones as this: one run away must not drown all others.
      imitation: Whom the rule imitates while theta is new, if anyone.
    """

    rule: mulo.Rule
    family: tasks.TaskFamily
    loss_ceiling: float
    imitation: imitation_lib.ImitationConfig = imitation_lib.NONE

    def __post_init__(self):
        """Check the ceiling."""
        if not self.loss_ceiling > 0.0:
            raise ValueError(f"loss_ceiling must be > 0 nats, got {self.loss_ceiling}.")

    def check(self) -> None:
        """Raise ValueError if the rule, as it is set, cannot train the family."""

        def make(key):
            self._transform(self.rule.init(key), jnp.ones((), jnp.int32))

        jax.eval_shape(make, jax.random.key(0))

    def init(
        self, theta: Any, key: jax.Array, length: jax.Array | None = None
    ) -> InnerState:
        """Start a training run from new parameters, of a newly drawn task.

        Args:
          theta: Meta-parameters.
          key: Decides the task and its parameters.
          length: As for `unroll`.
        """
        task_params = self.family.sample(jax.random.fold_in(key, _TASK_KEY))
        params = self.family.at(task_params).init(key)
        opt_state = self._transform(theta, length).init(params)
        expert = ()
        if self.imitation.expert:
            expert = self._expert(length).init(params)
        return InnerState(params, opt_state, task_params, expert)

    def unroll(
        self,
        theta: Any,
        state: InnerState,
        key: jax.Array,
        arrays: tasks.base.Arrays,
        num_steps: int,
        length: jax.Array | None = None,
        valid_arrays: tasks.base.Arrays | None = None,
        *,
        begins: jax.Array | None = None,
        imitated: jax.Array | float = 0.0,
        remat: bool = False,
    ) -> tuple[InnerState, jax.Array]:
        """Train for ``num_steps``.

        Args:
          theta: Meta-parameters.
          state: Where to go on from.
          key: Decides the batches.
          arrays: The train split, as the family's ``arrays`` gives it.
          num_steps: S, static.
          length: Inner steps of the whole run, shape=(), int32, the same in every call;
            for rules that must know how long a run is, not used by others.
          valid_arrays: The validation split, to have its losses as well.
          begins: Whether the run is at its start, shape=(), bool: the optimizer's state
            is then made by this theta, which may not be the one of `init`.
          imitated: Share of the imitation that is left, shape=(), if there is one.
          remat: Do each step again when differentiated: memory for states, and for
            batches that are drawn beforehand.

        Returns:
          The state after the last step, and the minibatch losses before each update:
          (S,), float32, nats, below the ceiling. With ``valid_arrays`` or an expert
          (S, 2): those, and what counts: the losses of the same parameters on a batch
          of the validation split, and of either the mean with the imitation's.
        """
        transform = self._transform(theta, length)
        task = self.family.at(state.task_params)
        if begins is not None:
            opt_state = jax.tree.map(
                lambda new, old: jnp.where(begins, new, old),
                transform.init(state.params),
                state.opt_state,
            )
            state = dataclasses.replace(state, opt_state=opt_state)

        def draw(key):
            """A step's batches, each with the key of its loss."""

            def one(key, arrays):
                data_key, loss_key = jax.random.split(key)
                return task.sample(arrays, data_key), loss_key

            if valid_arrays is None:
                return one(key, arrays), None
            valid_key = jax.random.fold_in(key, _VALID_KEY)
            return one(key, arrays), one(valid_key, valid_arrays)

        def step(state, drawn):
            if not at_once:
                drawn = draw(drawn)
            (batch, loss_key), valid = drawn
            loss, grads = jax.value_and_grad(task.loss)(state.params, loss_key, batch)
            updates, opt_state = transform.update(
                grads, state.opt_state, state.params, value=loss
            )
            expert, away, counts = (), 0.0, loss
            if self.imitation.expert:
                advice, expert = self._expert(length).update(
                    grads, state.expert, state.params
                )
                away = imitation_lib.distance(updates, advice)
                share = self.imitation.expert_share * imitated
                # Without a share nothing of the expert is left, NaN included.
                updates = jax.tree.map(
                    lambda u, e: jnp.where(share > 0.0, u + share * (e - u), u),
                    updates,
                    advice,
                )
            params = optax.apply_updates(state.params, updates)
            if valid is not None:
                batch, loss_key = valid
                counts = task.loss(state.params, loss_key, batch)
            if self.imitation.expert:
                weight = self.imitation.weight * imitated
                mixed = counts + weight * (away - counts)
                counts = jnp.where(weight > 0.0, mixed, counts)
            if counts is not loss:
                loss = jnp.stack([loss, counts])
            loss = jnp.where(jnp.isfinite(loss), loss, self.loss_ceiling)
            state = InnerState(params, opt_state, state.task_params, expert)
            return state, jnp.minimum(loss, self.loss_ceiling)

        if remat:
            step = jax.checkpoint(step)
        keys = jax.random.split(key, num_steps)
        # Bits for many batches at once are cheaper than for one after the other.
        at_once = num_steps * _num_bytes(draw, key) <= _MAX_BATCHES_BYTES
        return jax.lax.scan(step, state, jax.vmap(draw)(keys) if at_once else keys)

    def _expert(self, length):
        return self.imitation.make(self.family.task.scalings(), length)

    def num_params(self) -> int:
        """Number of a task's parameters."""
        shapes = jax.eval_shape(self.family.task.init, jax.random.key(0))
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    def _transform(self, theta, length):
        scalings = self.family.task.scalings()
        horizon = self.rule.options(num_steps=length)
        return self.rule.transform(theta, mup=scalings, **horizon)


def _num_bytes(function, *args):
    """Memory of what a function returns."""
    leaves = jax.tree.leaves(jax.eval_shape(function, *args))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def is_finite(params: optax.Params) -> jax.Array:
    """Whether every parameter is finite: shape=(), bool."""
    return jnp.all(
        jnp.stack([jnp.all(jnp.isfinite(p)) for p in jax.tree.leaves(params)])
    )
