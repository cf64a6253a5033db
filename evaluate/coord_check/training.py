"""Trains one network of a coordinate check and measures how far its layers move.

What depends on the task alone is compiled once and serves every optimizer: compiling is
most of a check's cost.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import tasks

_PROBE_POSITIONS = 256  # Images or tokens that activations are measured on,
_PROBE_EXAMPLES = 16  # and no fewer examples than this.


class Model:
    """A task's functions, compiled on first use."""

    def __init__(self, task: tasks.Task):
        """Put the task's training data on the device."""
        self.task = task
        self.layers: tuple[str, ...] = ()  # In the network's order, once it has run.
        self.arrays = jax.device_put(dict(task.dataset.arrays("train")))
        self.start = jax.jit(self._start)
        self.look = jax.jit(self._look)
        self.gradient = jax.jit(self._gradient)

    def _start(self, seed: jax.Array, arrays: Any) -> Any:
        """Draw parameters, the inputs to measure on, and a key for the batches."""
        # Threefry's bits for every weight would be half of all that XLA compiles.
        key = jax.random.key(seed, impl="unsafe_rbg")
        init_key, probe_key, batch_key = jax.random.split(key, 3)
        examples = max(_PROBE_EXAMPLES, _PROBE_POSITIONS // self.task.positions)
        probe = self.task.sample(arrays, probe_key, examples)["inputs"]
        return self.task.init(init_key), probe, batch_key

    def _look(self, params: Any, probe: jax.Array, before: Any) -> Any:
        """Return activations, and the mean square of what differs from ``before``."""
        found = self.task.activations(params, probe)
        self.layers = tuple(found)  # What jit returns is sorted by name.
        squares = {k: jnp.mean(jnp.square(found[k] - before[k])) for k in found}
        return found, squares

    def first_look(self, params: Any, probe: jax.Array) -> Any:
        """Return activations, with the program that :attr:`look` compiles anyway."""
        shapes = jax.eval_shape(self.task.activations, params, probe)
        nothing = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        return self.look(params, probe, nothing)[0]

    def _gradient(self, params: Any, key: jax.Array, count: Any, arrays: Any) -> Any:
        data_key, loss_key = jax.random.split(jax.random.fold_in(key, count))
        batch = self.task.sample(arrays, data_key)
        return jax.value_and_grad(self.task.loss)(params, loss_key, batch)


def changes(
    model: Model,
    transform: optax.GradientTransformationExtraArgs,
    *,
    num_steps: int,
    num_seeds: int,
) -> dict[str, np.ndarray]:
    """Return how far activations move from where they were at initialization.

    Args:
      model: What to train.
      transform: How.
      num_steps: T.
      num_seeds: Networks, one after the other: memory stays that of one.

    Returns:
      By layer, in order: shape=(T,), RMS of x_t - x_0 at t = 1 … T over seeds, examples
      and units.
    """

    @jax.jit
    def update(grads, state, params, loss):
        updates, state = transform.update(grads, state, params, value=loss)
        return optax.apply_updates(params, updates), state

    squares = []
    for seed in range(num_seeds):
        params, probe, key = model.start(jnp.asarray(seed), model.arrays)
        state = jax.jit(transform.init)(params)
        before = model.first_look(params, probe)
        for count in range(num_steps):
            loss, grads = model.gradient(params, key, jnp.asarray(count), model.arrays)
            params, state = update(grads, state, params, loss)
            squares.append(model.look(params, probe, before)[1])
    by_layer = {k: np.array([float(s[k]) for s in squares]) for k in model.layers}
    return {
        layer: np.sqrt(values.reshape(num_seeds, num_steps).mean(axis=0))
        for layer, values in by_layer.items()
    }
