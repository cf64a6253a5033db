"""Train a flax nnx model of your own with a learned optimizer: no learning rate.

    python examples/train_nnx.py
    python examples/train_nnx.py --theta=runs/demo/theta --steps=1000 --seed=1

The optimizer is told the parameters' roles under μP and the length of the run; nothing
is tuned. Beside it, on the same batches, stands AdamW, at the best of three learning
rates and at its usual one. Needs flax and scikit-learn, which brings the digits along;
seconds on a CPU.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn import datasets

import mulo


class MLP(nnx.Module):
    """Three weight matrices and a readout, in μP or as flax has it."""

    def __init__(self, width=128, *, mup=True, seed=0):
        """Draw the weights."""
        rngs = nnx.Rngs(seed)
        # μP, 1 of 2: weights with a standard deviation of 1/sqrt(fan_in). This is what
        # nnx.Linear does by default (lecun_normal; biases are zero).
        self.layers = nnx.List(
            nnx.Linear(fan_in, width, rngs=rngs) for fan_in in (64, width, width)
        )
        # μP, 2 of 2: a readout that starts at zero, and logits times 1/fan_in, which is
        # its mulo.mup.forward_multiplier.
        init = nnx.initializers.zeros if mup else nnx.initializers.lecun_normal()
        self.readout = nnx.Linear(width, 10, kernel_init=init, rngs=rngs)
        self.multiplier = 1 / width if mup else 1.0

    def __call__(self, x):
        """Map images (b, 64) to logits (b, 10)."""
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.multiplier * self.readout(x)


def load_digits(seed):
    """Return images and labels, 1,437 to train on and 360 to validate on."""
    images, labels = datasets.load_digits(return_X_y=True)
    train, valid = np.split(np.random.default_rng(seed).permutation(1797), [1437])
    images = (images - images[train].mean()) / images[train].std()
    images, labels = jnp.asarray(images, jnp.float32), jnp.asarray(labels)
    return (images[train], labels[train]), (images[valid], labels[valid])


def loss_and_logits(model, images, labels):
    """Return the mean cross-entropy, nats, and the logits."""
    logits = model(images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), logits


@nnx.jit
def step(model, optimizer, images, labels, key):
    """Update the model in place on a batch of 64; return the loss."""
    batch = jax.random.choice(key, len(labels), (64,))
    grad_fn = nnx.value_and_grad(loss_and_logits, has_aux=True)
    (loss, _), grads = grad_fn(model, images[batch], labels[batch])
    # LearnedMuon does not read the loss; some other learned optimizers do.
    optimizer.update(model, grads, value=loss)
    return loss


def main(argv=None):
    """Print a table and return it: training and validation loss, accuracy, by name."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--theta", default="mulo-m", help="released name or path")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    train_set, valid_set = load_digits(args.seed)

    def run(model, tx):
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        keys = jax.random.split(jax.random.key(args.seed), args.steps)
        losses = jnp.stack([step(model, optimizer, *train_set, key) for key in keys])
        loss, logits = loss_and_logits(model, *valid_set)
        accuracy = (logits.argmax(-1) == valid_set[1]).mean()
        last = losses[-args.steps // 20 :].mean()  # 5 % of the steps.
        return float(last), float(loss), float(accuracy)

    # The roles follow from shapes at two widths: what differs grows with width.
    model = MLP(seed=args.seed)
    narrow, params = (
        nnx.to_pure_dict(nnx.state(m, nnx.Param)) for m in (MLP(width=64), model)
    )
    mup = mulo.mup.infer(narrow, params)
    tx = mulo.load(args.theta).transform(mup=mup, num_steps=args.steps)
    table = {args.theta: run(model, tx)}

    # AdamW gets the standard parametrization, with flax's own initialization.
    adamw = {}
    for rate in (1e-3, 4e-3, 1.6e-2):
        schedule = optax.warmup_cosine_decay_schedule(
            0.0, rate, args.steps // 50, args.steps, end_value=0.01 * rate
        )
        adamw[rate] = run(MLP(mup=False, seed=args.seed), optax.adamw(schedule))
    best = min(adamw, key=lambda rate: adamw[rate][1])  # By the validation loss.
    table |= {f"AdamW {best:g}, tuned": adamw[best]}
    table |= {"AdamW 0.001, untuned": adamw[1e-3]}

    print(f"{'optimizer':24} train loss  valid loss  valid accuracy")
    for name, (last, loss, accuracy) in table.items():
        print(f"{name:24} {last:10.4f}  {loss:10.4f}  {accuracy:14.1%}")
    return table


if __name__ == "__main__":
    main()
