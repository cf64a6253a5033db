"""Rules that look at whole arrays, on parameters sharded over a mesh.

On a mesh with explicit axes, the default of ``jax.make_mesh``, an array's sharding is
part of its type, and operations whose result could lie in several ways are errors:
stacking leaves that are sharded differently, reshaping, multiplying matrices.
`on_meshes` leaves those choices to XLA, as on a mesh with automatic axes, and says how
the results lie.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, ParamSpec

import jax
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mulo._checks import masked_leaves, numbers

_P = ParamSpec("_P")
_Factory = Callable[_P, optax.GradientTransformationExtraArgs]


def on_meshes(factory: _Factory[_P]) -> _Factory[_P]:
    """Make a function's transformations take parameters that are sharded.

    Updates lie as the parameters, or without them as the gradients, and a new state as
    the old one. At ``init`` what a state holds for a parameter lies as the parameter
    does, axis by axis of the same length, and so do stacks of matrices of one shape if
    they all lie in one way; the rest is on every device. On automatic axes a sharding
    is known, and followed, outside of jit alone.

    What travels between devices is XLA's choice. Per-parameter networks need sums of
    rows or columns. Five Newton-Schulz iterations on a matrix sharded over its longer
    side, or a square one over the last axis, sum five products of the shorter sides; on
    others they gather the matrix ten times and the product five times. SOAP and Shampoo
    gather matrices and preconditioners, LSTM-FF all of its state.

    Args:
      factory: Makes a transformation. Where parameters lie on explicit axes, it is
        called again inside ``init`` and ``update``, with the arrays among its arguments
        as they are seen there. Functions among them must not close over arrays on such
        a mesh.

    Returns:
      The factory. Where no leaf is sharded, what it makes is as it was.
    """

    @functools.wraps(factory)
    def made(
        *args: _P.args, **kwargs: _P.kwargs
    ) -> optax.GradientTransformationExtraArgs:
        inner = factory(*args, **kwargs)

        def init_fn(params):
            leaves = _lying(params)
            mesh = _explicit_mesh(leaves)
            if mesh is None:
                mesh = _concrete_mesh(leaves)
                if mesh is None:
                    return inner.init(params)
                shapes = jax.eval_shape(inner.init, params)
                shardings = _follow(shapes, leaves, mesh)
                return jax.jit(inner.init, out_shardings=shardings)(params)

            def init(shardings, params):
                def run(arguments, params):
                    args, kwargs = arguments
                    return factory(*args, **kwargs).init(params)

                return _with_auto_axes(run, ((args, kwargs), params), mesh, shardings)

            everywhere = NamedSharding(mesh, PartitionSpec())
            shapes = jax.eval_shape(functools.partial(init, everywhere), params)
            follow = _follow(shapes, leaves, mesh)
            init = functools.partial(init, follow)
            if any(map(numbers.is_traced, jax.tree.leaves(params))):
                return init(params)
            # Compiled, no device holds more than its part.
            return jax.jit(init, out_shardings=follow)(params)

        def update_fn(updates, state, params=None, **extra_args):
            like = updates if params is None else params
            mesh = _explicit_mesh(_lying((like, updates, state)))
            if mesh is None:
                return inner.update(updates, state, params, **extra_args)
            everywhere = NamedSharding(mesh, PartitionSpec())

            def own(x):
                sharding = _sharding(x)
                return everywhere if sharding.mesh.empty else sharding

            def run(arguments, updates, state, params, extra_args):
                args, kwargs = arguments
                tx = factory(*args, **kwargs)
                return tx.update(updates, state, params, **extra_args)

            given = ((args, kwargs), updates, state, params, extra_args)
            leaves, treedef = jax.tree.flatten(updates, is_leaf=masked_leaves.is_masked)
            along = zip(leaves, treedef.flatten_up_to(like), strict=True)
            steps = [g if masked_leaves.is_masked(g) else own(p) for g, p in along]
            shardings = (treedef.unflatten(steps), jax.tree.map(own, state))
            return _with_auto_axes(run, given, mesh, shardings)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return made


class _Leaf(NamedTuple):
    """An array of a tree and how it lies."""

    path: tuple[Any, ...]
    shape: tuple[int, ...]
    mesh: Any
    spec: tuple[Any, ...]  # For every axis the mesh axes it is split over, or None.
    concrete: bool


def _lying(tree: Any) -> list[_Leaf]:
    """The arrays of a tree that are on a mesh."""
    leaves = []
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        if not isinstance(x, jax.Array):
            continue
        sharding = _sharding(x)
        if not sharding.mesh.empty:
            spec = (*sharding.spec, *(None,) * (x.ndim - len(sharding.spec)))
            concrete = not numbers.is_traced(x)
            leaves.append(_Leaf(path, x.shape, sharding.mesh, spec, concrete))
    return leaves


def _sharding(x: Any) -> NamedSharding:
    """Over explicit axes, or else over automatic ones; on an empty mesh if on none."""
    typed = jax.typeof(x).sharding
    real = getattr(x, "sharding", None)
    if numbers.is_traced(x) or not isinstance(real, NamedSharding):
        return typed
    # Devices are known outside of jit alone.
    spec = typed.spec if _explicit(real.mesh) else real.spec
    return NamedSharding(real.mesh, spec)


def _explicit(mesh: Any) -> tuple[str, ...]:
    """Names of a mesh's explicit axes."""
    axes = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return tuple(name for name, kind in axes if kind == AxisType.Explicit)


def _split(leaves: Sequence[_Leaf]) -> list[_Leaf]:
    return [leaf for leaf in leaves if any(axis is not None for axis in leaf.spec)]


def _explicit_mesh(leaves: Sequence[_Leaf]) -> Any:
    """The mesh over whose explicit axes a leaf is split, if one is."""
    return next((x.mesh for x in _split(leaves) if _explicit(x.mesh)), None)


def _concrete_mesh(leaves: Sequence[_Leaf]) -> Any:
    """The mesh over which a leaf is split, if the devices are known."""
    if not all(leaf.concrete for leaf in leaves):
        return None
    return next((leaf.mesh for leaf in _split(leaves)), None)


def _with_auto_axes(function, given, mesh, shardings):
    """Call ``function(*given)`` as on a mesh of automatic axes.

    Args:
      function: Must not close over arrays on the mesh.
      given: Its arguments; leaves that are no arrays are passed as they are.
      mesh: Whose explicit axes become automatic.
      shardings: Of the results.
    """
    leaves, treedef = jax.tree.flatten(given)
    where = [
        i
        for i, x in enumerate(leaves)
        if isinstance(x, jax.Array) and not _sharding(x).mesh.empty
    ]

    def run(arrays):
        seen = dict(zip(where, arrays, strict=True))
        return function(
            *treedef.unflatten([seen.get(i, x) for i, x in enumerate(leaves)])
        )

    axes = _explicit(mesh)
    called: Any = jax.sharding.auto_axes(run, axes=axes, out_sharding=shardings)
    return called([leaves[i] for i in where])


def _follow(state: Any, params: Sequence[_Leaf], mesh: Any) -> Any:
    """How the arrays of a state lie that is made for these parameters."""
    by_path = {leaf.path: leaf for leaf in params}

    def spec(path, x):
        # A state's trees have the parameters' structure: their paths are at the end.
        for start in range(len(path) + 1):
            if path[start:] in by_path:
                return _along(x.shape, by_path[path[start:]])
        alike = {
            leaf.spec
            for leaf in params
            if len(leaf.shape) > 1 and x.shape[-len(leaf.shape) :] == leaf.shape
        }
        if len(alike) != 1:
            return PartitionSpec()
        (own,) = alike
        return PartitionSpec(*(None,) * (len(x.shape) - len(own)), *own)

    return jax.tree_util.tree_map_with_path(
        lambda path, x: NamedSharding(mesh, spec(path, x)), state
    )


def _along(shape: tuple[int, ...], param: _Leaf) -> PartitionSpec:
    """Split every axis as the parameter's of the same length, the last ones first."""
    free = list(range(len(param.shape)))
    spec: list[Any] = []
    for size in reversed(shape):
        own = next((k for k in reversed(free) if param.shape[k] == size), None)
        spec.insert(0, None if own is None else param.spec[own])
        if own is not None:
            free.remove(own)
    return PartitionSpec(*spec)
