"""Layers of convnets in plain numpy and float64, to compare with; and made-up leaves.

Axes: b examples, h and w pixels, i and o channels in and out.
"""

import jax
import numpy as np


def random_params(shapes, seed):
    """Return float32 leaves without a zero; gains and offsets too are random."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: (
            rng.uniform(0.3, 1.0, x.shape).astype(np.float32)
            * rng.choice([-1, 1], x.shape).astype(np.float32)
        ),
        shapes,
    )


def conv(x, kernel, stride=1, bias=0.0):
    """Return the convolution of (b, h, w, i) by (k, k, i, o), pixel after pixel."""
    size = kernel.shape[0]
    out = [-(-n // stride) for n in x.shape[1:3]]
    # What is missing around the image; the odd zero goes below and to the right.
    missing = [
        max((m - 1) * stride + size - n, 0)
        for m, n in zip(out, x.shape[1:3], strict=True)
    ]
    around = [(n // 2, n - n // 2) for n in missing]
    padded = np.pad(np.float64(x), [(0, 0), *around, (0, 0)])
    y = np.zeros((x.shape[0], *out, kernel.shape[3]))
    for r in range(out[0]):
        for c in range(out[1]):
            top, left = r * stride, c * stride
            window = padded[:, top : top + size, left : left + size]
            y[:, r, c] = np.tensordot(window, np.float64(kernel), 3) + bias
    return y


def group_norm(x, scale, bias, group_size=8, epsilon=1e-5):
    """Normalize groups of neighbouring channels of (b, h, w, i) over all pixels."""
    y = np.empty(x.shape)
    for b in range(x.shape[0]):
        for start in range(0, x.shape[3], group_size):
            group = x[b, :, :, start : start + group_size]
            std = np.sqrt(group.var() + epsilon)
            y[b, :, :, start : start + group_size] = (group - group.mean()) / std
    return y * scale + bias


def layer_norm(x, scale, bias, epsilon=1e-5):
    """Normalize the last axis of (b, i)."""
    centred = x - x.mean(axis=1, keepdims=True)
    return centred / np.sqrt(x.var(axis=1, keepdims=True) + epsilon) * scale + bias


def relu(x):
    return np.maximum(x, 0)
