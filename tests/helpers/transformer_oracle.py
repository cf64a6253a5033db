"""Transformer blocks in plain numpy and loops, to compare the tasks' models with.

Written from the definition, not from :mod:`tasks.models.blocks`: one example, one
position, one head at a time, in float64.
"""

import math

import numpy as np


def random_params(shapes, seed):
    """Draw normal values for every leaf of a nested dict of shapes."""
    rng = np.random.default_rng(seed)

    def draw(tree):
        if isinstance(tree, dict):
            return {name: draw(branch) for name, branch in tree.items()}
        fan_in = tree.shape[0] if len(tree.shape) == 2 else 1
        return rng.normal(0, fan_in**-0.5, tree.shape).astype(np.float32)

    return draw(shapes)


def linear(params, x):
    """One vector through one layer."""
    return x @ params["kernel"].astype(np.float64) + params["bias"]


def layer_norm(params, x):
    """One vector, normalized."""
    centred = x - np.mean(x)
    normal = centred / np.sqrt(np.mean(centred**2) + 1e-5)
    return normal * params["scale"] + params["bias"]


def gelu(x):
    """By its tanh form."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def block(params, x, *, heads, scale, causal, multiplier):
    """Put the positions (s, w) of one example through a block.

    Returns:
      The stream (s, w) and what each layer gives, by name.
    """
    length, width = x.shape
    size = width // heads
    found = {}
    normal = [layer_norm(params["ln_attention"], v) for v in x]
    for name in ("query", "key", "value"):
        found[name] = np.stack([linear(params[name], v) for v in normal])
    logits = np.zeros((heads, length, length))
    mixed = np.zeros((length, width))
    for h in range(heads):
        units = slice(h * size, (h + 1) * size)
        for q in range(length):
            others = range(q + 1) if causal else range(length)
            for t in others:
                product = found["query"][q, units] @ found["key"][t, units]
                logits[h, q, t] = product * scale
            powers = np.exp([logits[h, q, t] for t in others])
            for t, power in zip(others, powers, strict=True):
                share = power / np.sum(powers)
                mixed[q, units] += share * found["value"][t, units]
    found["attention_logits"] = logits
    found["attention"] = np.stack([linear(params["out"], v) for v in mixed])
    x = x + multiplier * found["attention"]
    normal = [layer_norm(params["ln_mlp"], v) for v in x]
    found["mlp_in"] = np.stack([linear(params["mlp_in"], v) for v in normal])
    found["mlp_out"] = np.stack(
        [linear(params["mlp_out"], gelu(v)) for v in found["mlp_in"]]
    )
    return x + multiplier * found["mlp_out"], found


def blocks(params, x, *, depth, **options):
    """Put one example through all blocks and the last layer norm.

    Returns:
      Normalized stream (s, w), and what each layer gives, by name.
    """
    found = {"embed": x}
    for i in range(depth):
        x, inside = block(params[f"block_{i}"], x, **options)
        found.update({f"block_{i}/{name}": value for name, value in inside.items()})
        found[f"block_{i}"] = x
    return np.stack([layer_norm(params["ln_final"], v) for v in x]), found


def block_parameters(width):
    """Count the parameters of a block."""
    attention = 4 * (width * width + width)
    feed_forward = width * 4 * width + 4 * width + 4 * width * width + width
    return attention + feed_forward + 2 * 2 * width
