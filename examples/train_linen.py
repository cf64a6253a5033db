"""Train a flax linen model of your own with a learned optimizer: no learning rate.

    python examples/train_linen.py
    python examples/train_linen.py --theta=runs/demo/theta --steps=1000 --seed=1

The optimizer is told the parameters' roles under μP and the length of the run; nothing
is tuned. Beside it, on the same batches, stands AdamW, at the best of three learning
rates and at its usual one. Needs flax and scikit-learn, which brings the digits along;
seconds on a CPU.
"""

import argparse

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

import mulo


class MLP(nn.Module):
    """Three weight matrices and a readout, in μP or as flax has it."""

    width: int = 128
    mup: bool = True

    @nn.compact
    def __call__(self, x):
        """Map images (b, 64) to logits (b, 10)."""
        # μP, 1 of 2: weights with a standard deviation of 1/sqrt(fan_in). This is what
        # nn.Dense does by default (lecun_normal; biases are zero).
        for _ in range(3):
            x = nn.relu(nn.Dense(self.width)(x))
        # μP, 2 of 2: a readout that starts at zero, and logits times 1/fan_in, which is
        # its mulo.mup.forward_multiplier.
        if self.mup:
            return nn.Dense(10, kernel_init=nn.initializers.zeros)(x) / self.width
        return nn.Dense(10)(x)


def load_digits(seed):
    """Return images and labels, 1,437 to train on and 360 to validate on."""
    images, labels = datasets.load_digits(return_X_y=True)
    train, valid = np.split(np.random.default_rng(seed).permutation(1797), [1437])
    images = (images - images[train].mean()) / images[train].std()
    images, labels = jnp.asarray(images, jnp.float32), jnp.asarray(labels)
    return (images[train], labels[train]), (images[valid], labels[valid])


def loss_and_logits(params, model, images, labels):
    """Return the mean cross-entropy, nats, and the logits."""
    logits = model.apply(params, images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), logits


def train(model, params, tx, data, keys):
    """Train on a batch of 64 for every key; return params and the losses."""

    def step(carry, key):
        params, state = carry
        batch = jax.random.choice(key, len(data[1]), (64,))
        grad_fn = jax.value_and_grad(loss_and_logits, has_aux=True)
        (loss, _), grads = grad_fn(params, model, *(x[batch] for x in data))
        # LearnedMuon does not read the loss; some other learned optimizers do.
        updates, state = tx.update(grads, state, params, value=loss)
        return (optax.apply_updates(params, updates), state), loss

    carry = params, tx.init(params)
    (params, _), losses = jax.jit(lambda c: jax.lax.scan(step, c, keys))(carry)
    return params, losses


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
        keys = jax.random.split(batch_key, args.steps)
        params = model.init(init_key, valid_set[0])
        params, losses = train(model, params, tx, train_set, keys)
        loss, logits = loss_and_logits(params, model, *valid_set)
        accuracy = (logits.argmax(-1) == valid_set[1]).mean()
        last = losses[-args.steps // 20 :].mean()  # 5 % of the steps.
        return float(last), float(loss), float(accuracy)

    # The roles follow from shapes at two widths: what differs grows with width.
    narrow, params = (
        jax.eval_shape(MLP(width).init, init_key, valid_set[0]) for width in (64, 128)
    )
    mup = mulo.mup.infer(narrow, params)
    tx = mulo.load(args.theta).transform(mup=mup, num_steps=args.steps)
    table = {args.theta: run(MLP(), tx)}

    # AdamW gets the standard parametrization, with flax's own initialization.
    adamw = {}
    for rate in (1e-3, 4e-3, 1.6e-2):
        schedule = optax.warmup_cosine_decay_schedule(
            0.0, rate, args.steps // 50, args.steps, end_value=0.01 * rate
        )
        adamw[rate] = run(MLP(mup=False), optax.adamw(schedule))
    best = min(adamw, key=lambda rate: adamw[rate][1])  # By the validation loss.
    table |= {f"AdamW {best:g}, tuned": adamw[best]}
    table |= {"AdamW 0.001, untuned": adamw[1e-3]}

    print(f"{'optimizer':24} train loss  valid loss  valid accuracy")
    for name, (last, loss, accuracy) in table.items():
        print(f"{name:24} {last:10.4f}  {loss:10.4f}  {accuracy:14.1%}")
    return table


if __name__ == "__main__":
    main()
