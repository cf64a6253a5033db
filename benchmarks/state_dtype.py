"""What first moments in bfloat16 cost in loss, optimizer by optimizer.

    python -m benchmarks.state_dtype [--task NAME] [--batch_size N] [--steps N]

Every optimizer trains the task with its state in float32 and with first moments in
bfloat16, from the same parameters and batches, with a linear decay. Prints one JSON
object each: the mean training loss of the last twentieth of the steps (mean over
seeds), and bytes of state per parameter.
"""

import argparse
import json
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mulo
import tasks

# Rates at base width 1, about the best of each at the default task.
RATES = {"adam": 0.05, "lion": 0.01, "muon": 0.06, "soap": 0.2, "learned_muon": None}
HYPER = {"soap": {"block_size": 64}}
SEEDS = (0, 1)


def final_loss(task, tx, steps: int) -> float:
    """Mean over seeds of the mean loss of the last twentieth of a run, nats."""
    arrays = task.dataset.arrays("train")

    @jax.jit
    def run(seed, arrays):
        init_key, key = jax.random.split(jax.random.key(seed))
        params = task.init(init_key)

        def step(carry, key):
            params, state = carry
            batch_key, loss_key = jax.random.split(key)
            batch = task.sample(arrays, batch_key)
            loss, grads = jax.value_and_grad(task.loss)(params, loss_key, batch)
            updates, state = tx.update(grads, state, params, value=loss)
            return (optax.apply_updates(params, updates), state), loss

        keys = jax.random.split(key, steps)
        losses = jax.lax.scan(step, (params, tx.init(params)), keys)[1]
        return jnp.mean(losses[-max(1, steps // 20) :])

    return float(np.mean([run(seed, dict(arrays)) for seed in SEEDS]))


def main(argv: Sequence[str] | None = None) -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="mlp-w32-d3-digits")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=500)
    options = parser.parse_args(argv)
    task = tasks.get(options.task, batch_size=options.batch_size)
    params = jax.eval_shape(task.init, jax.random.key(0))
    num_params = sum(x.size for x in jax.tree.leaves(params))
    for name, rate in RATES.items():
        schedule = rate and optax.linear_schedule(rate, 0.01 * rate, options.steps)
        row = {"task": options.task, "steps": options.steps, "optimizer": name}
        for dtype in ("float32", "bfloat16"):
            tx = mulo.optimizers.get(
                name,
                learning_rate=schedule,
                mup=task.scalings(),
                theta=None if rate else "mulo-m",
                num_steps=options.steps,
                state_dtype=dtype,
                **HYPER.get(name, {}),
            )
            state = jax.tree.leaves(jax.eval_shape(tx.init, params))
            size = sum(x.size * x.dtype.itemsize for x in state) / num_params
            loss = final_loss(task, tx, options.steps)
            row |= {f"{dtype}_loss": loss, f"{dtype}_bytes": round(size, 1)}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
