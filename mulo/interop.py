"""To and from other libraries: learned_optimization, and flax's training states.

    lopt = mulo.interop.learned_optimizer(mulo.SmallFC())  # For its trainers.
    opt = mulo.interop.optimizer(optax.adam(1e-3))  # Hand-designed, for the same.
    task = mulo.interop.task(lo_task, num_batches=256)  # For ours.
    state = mulo.interop.apply_gradients(state, grads=grads, value=loss)  # flax.

learned_optimization is needed only where one of its classes is to be derived from. It
has to be a checkout of its head: the release on the package index is from 2022, does
not run on today's JAX and computes other updates.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mulo._learned.rule import Rule

HOW_TO_ADD = (
    "Install its head: pip install --no-deps "
    "git+https://github.com/google/learned_optimization and then dm-haiku, gin-config, "
    "chex, tensorboard, tensorflow-cpu and tensorflow-datasets; or put a checkout of "
    "it on PYTHONPATH."
)


class OptimizerState(NamedTuple):
    """State of what `optimizer` and `learned_optimizer` make, under the peer's names.

    A named tuple, so that the peer's checkpoints (flax serialization) can hold it.
    """

    params: Any  # What is optimized.
    state: Any  # The task's own, such as batch statistics; None for most tasks.
    opt_state: Any  # Of the optax transformation.
    iteration: jax.typing.ArrayLike  # shape=(), int32. Updates applied so far.
    num_steps: Any  # shape=(), int32. Length of the run; None if not given.

    def replace(self, **changes: Any) -> "OptimizerState":
        """Return a copy with some fields changed."""
        return self._replace(**changes)


def learned_optimizer(rule: Rule, *, mup: Any = None) -> Any:
    """Wrap one of our rules as a ``LearnedOptimizer`` of learned_optimization.

    Theta is the rule's own: what its trainers make of it goes into `mulo.save` as it
    is. The optimizer's ``init`` forwards the length of the run and its ``update`` the
    loss, for the rules that read them, and ``is_valid`` to LSTM-FF.

    Args:
      rule: An architecture, such as :class:`mulo.SmallFC`.
      mup: Tree of :class:`mulo.mup.Scaling` for the parameters of the tasks; None for
        the standard parametrization, in which all tasks of learned_optimization are.

    Returns:
      An instance of its ``LearnedOptimizer``.

    Raises:
      ImportError: If learned_optimization's head is not importable.
      ValueError: When the optimizer's ``init`` or ``update`` is called: as
        ``rule.transform``, also if the rule needs the horizon and got none.
    """
    base = _load("learned_optimizers.base")
    return _derive(_LearnedOptimizer, base.LearnedOptimizer)(rule, mup)


def optimizer(tx: optax.GradientTransformation, *, name: str = "optax") -> Any:
    """Wrap an optax transformation as an ``Optimizer`` of learned_optimization.

    Unlike its own ``OptaxOptimizer`` this one forwards the loss, as ``value=``.

    Args:
      tx: A transformation whose updates are added to the parameters.
      name: What results are filed under.

    Returns:
      An instance of its ``Optimizer``.

    Raises:
      ImportError: If learned_optimization's head is not importable.
    """
    tx = optax.with_extra_args_support(tx)
    base = _load("optimizers.base")
    return _derive(_Optimizer, base.Optimizer)(lambda num_steps: tx, name)


def task(lo_task: Any, *, num_batches: int = 64, split: str = "train") -> Any:
    """Wrap a ``Task`` of learned_optimization as one of :mod:`tasks`.

    Its data are endless iterators on the host, ours arrays on the device. So
    ``num_batches`` are read now, and every inner step draws one of them, whole, with
    replacement: an inner run does not see more data than that. Its ``normalizer`` is
    not used: our meta-loss is the loss itself, up to a ceiling.

    Args:
      lo_task: The task, in the standard parametrization and without a state of its own.
      num_batches: How many batches to read from ``split``. A tenth as many, at least
        one, are read from ``outer_valid`` and ``test`` for the splits valid and test.
      split: What to train on, ``train`` or ``inner_valid``.

    Returns:
      A ``tasks.Task`` for ``meta_train``; its ``apply`` and ``activations`` raise,
      since the peer's tasks have nothing but a loss.

    Raises:
      ImportError: If our ``tasks`` are not importable: they live in a checkout of this
        project, beside ``mulo``.
      ValueError: If the task has a state, a batch holds something else than numbers,
        there are no batches, or an argument is out of range.
    """
    try:
        # The one way from mulo to another room, and only on demand: the wheel lacks it.
        foreign = importlib.import_module("tasks.foreign")
    except ImportError as error:
        raise ImportError(
            "mulo.interop.task needs this project's package tasks, which is not "
            f"importable here ({error}). Run from a checkout of mulo, with its extra "
            "train installed."
        ) from error
    return foreign.read(lo_task, num_batches=num_batches, split=split)


def apply_gradients(
    state: Any, *, grads: Any, value: Any = None, **changes: Any
) -> Any:
    """Make a step of a flax ``TrainState`` that tells the optimizer the loss.

    ``state.apply_gradients(grads=grads)`` alone passes on no arguments.

    Args:
      state: A ``flax.training.train_state.TrainState`` or an instance of a subclass.
      grads: As ``state.params``.
      value: The loss, scalar, for optimizers that read it.
      **changes: Other fields of the state to replace, as in flax.

    Returns:
      The next state.
    """
    tx = optax.with_extra_args_support(state.tx)
    told = {} if value is None else {"value": value}

    def update_fn(updates, state, params=None):
        return tx.update(updates, state, params, **told)

    telling = state.replace(tx=optax.GradientTransformation(tx.init, update_fn))
    after = telling.apply_gradients(grads=grads, **changes)
    return after.replace(tx=state.tx)


class _LearnedOptimizer:
    """Our rule under the interface of the peer's LearnedOptimizer."""

    def __init__(self, rule: Rule, mup: Any):
        self._rule = rule
        self._mup = mup

    def init(self, key):
        return self._rule.init(key)

    def opt_fn(self, theta, is_training=False):
        del is_training

        def make(num_steps):
            horizon = self._rule.options(num_steps=num_steps)
            return self._rule.transform(theta, mup=self._mup, **horizon)

        base = _load("optimizers.base")
        return _derive(_Optimizer, base.Optimizer)(make, self.name)

    @property
    def name(self):
        return type(self._rule).__name__


class _Optimizer:
    """An optax transformation under the interface of the peer's Optimizer."""

    def __init__(
        self,
        make: Callable[[Any], optax.GradientTransformationExtraArgs],
        name: str,
    ):
        self._make = make  # From the length of the run, or None.
        self._name = name

    def init(self, params, model_state=None, num_steps=None, key=None, **kwargs):
        del key, kwargs
        return OptimizerState(
            params=params,
            state=model_state,
            opt_state=self._make(num_steps).init(params),
            iteration=jnp.zeros((), jnp.int32),
            num_steps=None if num_steps is None else jnp.asarray(num_steps, jnp.int32),
        )

    def update(
        self,
        opt_state,
        grad,
        loss=None,
        model_state=None,
        is_valid=False,
        key=None,
        **kwargs,
    ):
        del key, kwargs
        updates, inner = self._make(opt_state.num_steps).update(
            grad, opt_state.opt_state, opt_state.params, value=loss, is_valid=is_valid
        )
        return OptimizerState(
            params=optax.apply_updates(opt_state.params, updates),
            state=model_state,
            opt_state=inner,
            iteration=opt_state.iteration + 1,
            num_steps=opt_state.num_steps,
        )

    @property
    def name(self):
        return self._name


def _derive(implementation: type, base: type) -> Any:
    """A class of the peer's kind: its trainers ask isinstance, and add methods."""
    return type(implementation.__name__.removeprefix("_"), (implementation, base), {})


def _load(module: str) -> Any:
    """A module of learned_optimization; untyped, since it need not be there."""
    try:
        return importlib.import_module(f"learned_optimization.{module}")
    except ImportError as error:
        raise ImportError(
            f"learned_optimization is not importable ({error}). {HOW_TO_ADD}"
        ) from error
    except AttributeError as error:  # jax.tree_map and others are gone.
        raise ImportError(
            "learned_optimization is importable, but too old for this JAX "
            f"({error}). {HOW_TO_ADD}"
        ) from error
