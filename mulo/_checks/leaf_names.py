"""Paths and names of leaves, as μP compares them and messages call them."""

import re
from typing import Any

import jax
import numpy as np


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    return [(keystr(path), leaf) for path, leaf in flatten(tree)]


def flatten(tree: Any, is_leaf: Any = None) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)[0]


def keys(path: Any) -> tuple[str, ...]:
    # Boxes count for nothing: nnx hands optimizers its parameters without them. What
    # takes the place of a leaf with copies is inside its box.
    in_copies = path and isinstance(path[-1], jax.tree_util.FlattenedIndexKey)
    path, copy = (path[:-1], path[-1:]) if in_copies else (path, ())
    boxed = path and path[-1] == jax.tree_util.GetAttrKey("value")
    return tuple(keystr((key,)) for key in (*(path[:-1] if boxed else path), *copy))


def keystr(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def shape_of(leaf: Any) -> tuple[int, ...]:
    return tuple(leaf.shape) if hasattr(leaf, "shape") else np.shape(leaf)


def cut(name: str) -> tuple[str, str]:
    """Path of a leaf's module, with what separates it, and the leaf's own name."""
    name = name.removesuffix("/value")  # Boxed parameters add it.
    start = max(name.rfind("/"), name.rfind(".")) + 1
    return name[:start], name[start:]


def keys_of(name: str) -> tuple[str, ...]:
    """Keys of a leaf's path."""
    parts = name.removesuffix("/value").replace(".", "/").split("/")
    return tuple(part for part in parts if part)


def natural(name: str) -> list[Any]:
    """To sort paths by, with their numbers as numbers."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part)
        for part in re.split(r"(\d+)", name)
    ]


def label(name: str) -> str:
    return f"Leaf {name!r}" if name else "The only leaf"
