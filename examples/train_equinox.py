"""Train an equinox model of your own with a learned optimizer: no learning rate.

    python examples/train_equinox.py
    python examples/train_equinox.py --theta=runs/demo/theta --steps=1000 --seed=1

The optimizer is told the parameters' roles under μP and the length of the run; nothing
is tuned. Beside it, on the same batches, stands AdamW, at the best of three learning
rates and at its usual one. Needs equinox and scikit-learn, which brings the digits
along; seconds on a CPU.
"""

import argparse

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

import mulo


class MLP(eqx.Module):
    """Three weight matrices and a readout, in μP or as equinox has it."""

    layers: list[eqx.nn.Linear]
    readout: eqx.nn.Linear
    multiplier: float = eqx.field(static=True)

    def __init__(self, key, width=128, *, mup=True):
        """Draw the weights."""
        keys = jax.random.split(key, 4)
        # μP, 1 of 2: weights with a standard deviation of 1/sqrt(fan_in). equinox draws
        # them, and biases, uniformly within ±1/sqrt(fan_in): √3 times too small.
        factor = 3**0.5 if mup else None
        self.layers = [
            linear(fan_in, width, key, factor)
            for fan_in, key in zip((64, width, width), keys[:3], strict=True)
        ]
        # μP, 2 of 2: a readout that starts at zero, and logits times 1/fan_in, which is
        # its mulo.mup.forward_multiplier.
        self.readout = linear(width, 10, keys[3], 0.0 if mup else None)
        self.multiplier = 1 / width if mup else 1.0

    def __call__(self, x):
        """Map an image (64,) to logits (10,)."""
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return self.multiplier * self.readout(x)


def linear(fan_in, fan_out, key, factor):
    """Return equinox's layer; with a factor on its weights, and no biases, if given."""
    layer = eqx.nn.Linear(fan_in, fan_out, key=key)
    if factor is None:
        return layer
    arrays = factor * layer.weight, jnp.zeros(fan_out)
    return eqx.tree_at(lambda x: (x.weight, x.bias), layer, arrays)


def parameters(model):
    """Return the arrays to be trained, with None for the rest of the module."""
    return eqx.filter(model, eqx.is_inexact_array)


def load_digits(seed):
    """Return images and labels, 1,437 to train on and 360 to validate on."""
    images, labels = datasets.load_digits(return_X_y=True)
    train, valid = np.split(np.random.default_rng(seed).permutation(1797), [1437])
    images = (images - images[train].mean()) / images[train].std()
    images, labels = jnp.asarray(images, jnp.float32), jnp.asarray(labels)
    return (images[train], labels[train]), (images[valid], labels[valid])


def loss_and_logits(model, images, labels):
    """Return the mean cross-entropy, nats, and the logits."""
    logits = jax.vmap(model)(images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), logits


@eqx.filter_jit
def step(model, state, tx, images, labels, key):
    """Return the model after a batch of 64, the optimizer's state and the loss."""
    batch = jax.random.choice(key, len(labels), (64,))
    grad_fn = eqx.filter_value_and_grad(loss_and_logits, has_aux=True)
    (loss, _), grads = grad_fn(model, images[batch], labels[batch])
    # LearnedMuon does not read the loss; some other learned optimizers do.
    updates, state = tx.update(grads, state, parameters(model), value=loss)
    return eqx.apply_updates(model, updates), state, loss


def main(argv=None):
    """Print a table and return it: training and validation loss, accuracy, by name."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--theta", default="mulo-m", help="released name or path")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    train_set, valid_set = load_digits(args.seed)
    init_key, batch_key = jax.random.split(jax.random.key(args.seed))

    def run(model, tx):
        state, losses = tx.init(parameters(model)), []
        for key in jax.random.split(batch_key, args.steps):
            model, state, loss = step(model, state, tx, *train_set, key)
            losses.append(loss)
        loss, logits = loss_and_logits(model, *valid_set)
        accuracy = (logits.argmax(-1) == valid_set[1]).mean()
        last = jnp.stack(losses[-args.steps // 20 :]).mean()  # 5 % of the steps.
        return float(last), float(loss), float(accuracy)

    # The roles follow from shapes at two widths: what differs grows with width. A
    # Linear or Conv of equinox has its axes as (out, in, ...); the weight of an
    # eqx.nn.Embedding is (in, out) and would need a line of its own:
    # layout={"embedding/weight": "in_out", "*": "out_in"}.
    narrow, params = (parameters(MLP(init_key, width)) for width in (64, 128))
    mup = mulo.mup.infer(narrow, params, layout="out_in")
    tx = mulo.load(args.theta).transform(mup=mup, num_steps=args.steps)
    table = {args.theta: run(MLP(init_key), tx)}

    # AdamW gets the standard parametrization, with equinox's own initialization.
    adamw = {}
    for rate in (1e-3, 4e-3, 1.6e-2):
        schedule = optax.warmup_cosine_decay_schedule(
            0.0, rate, args.steps // 50, args.steps, end_value=0.01 * rate
        )
        adamw[rate] = run(MLP(init_key, mup=False), optax.adamw(schedule))
    best = min(adamw, key=lambda rate: adamw[rate][1])  # By the validation loss.
    table |= {f"AdamW {best:g}, tuned": adamw[best]}
    table |= {"AdamW 0.001, untuned": adamw[1e-3]}

    print(f"{'optimizer':24} train loss  valid loss  valid accuracy")
    for name, (last, loss, accuracy) in table.items():
        print(f"{name:24} {last:10.4f}  {loss:10.4f}  {accuracy:14.1%}")
    return table


if __name__ == "__main__":
    main()
