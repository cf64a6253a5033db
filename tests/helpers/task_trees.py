"""A task's parameters as tests look at them."""

import jax


def shapes_of(task):
    return jax.eval_shape(task.init, jax.random.key(0))


def leaves_by_path(tree):
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in leaves
    }
