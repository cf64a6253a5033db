"""Shapes of small models at two widths, for the tests of mulo.mup."""

import jax
import jax.numpy as jnp

from mulo import mup


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def one(narrow, target, **kwargs):
    """The scaling of one leaf beside a Dense that says the width doubles."""
    tree = mup.infer(
        {"leaf": shape(*narrow), "other": shape(3, 8)},
        {"leaf": shape(*target), "other": shape(3, 16)},
        **kwargs,
    )
    return tree["leaf"]


def network(width, depth_axis=()):
    return {
        "in": {"kernel": shape(64, width), "bias": shape(width)},
        "mid": {"kernel": shape(*depth_axis, width, width), "bias": shape(width)},
        "out": {"kernel": shape(width, 10), "bias": shape(10)},
    }
