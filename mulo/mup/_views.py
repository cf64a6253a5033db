"""Every rule sees weights as μP reads them: (in, out), and one leaf per copy.

Rules look at axes (Muon's sides, SOAP's factors, averages of rows and columns) and at
whole leaves (norms, an LSTM's rows). `sees_weights` brings leaves that are laid out
otherwise, or hold copies, into the form a rule expects, so that none knows of either;
nor does a rule know of meshes (:func:`mulo._transforms.meshes.on_meshes`), since views
reshape.

Axis name: L copies.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp
import optax

from mulo import mup as mup_lib
from mulo._checks import leaf_names as trees
from mulo._checks.masked_leaves import is_masked
from mulo._transforms.meshes import on_meshes
from mulo.mup import Scaling
from mulo.mup import _axes as axes_lib

_P = ParamSpec("_P")
_Factory = Callable[_P, optax.GradientTransformationExtraArgs]


def sees_weights(*, batched: bool = False) -> Callable[[_Factory[_P]], _Factory[_P]]:
    """Make a decorator for what takes ``mup=`` and makes a transformation.

    The transformation refuses parameters that the μP tree is not of, at ``init`` too.
    The rule sees a leaf with L copies as L leaves, and one in another layout as
    ``(*kernel, in, out)``. So does its state, with the copies stacked again: whatever
    it holds per parameter is ``(L, …)``, in the structure of the parameters. Where
    nothing has copies or another layout the rule sees its parameters as they are.

    Args:
      batched: Copies stay one array ``(L, …)``, hidden ones ``(L, fan_in, fan_out)``:
        for rules that step every matrix of a stack by itself and all else by entry.

    Returns:
      The decorator. Functions given as ``mask`` and ``matrices`` are called with
      parameters in their own form.
    """

    def decorate(factory: _Factory[_P]) -> _Factory[_P]:
        @on_meshes
        @functools.wraps(factory)
        def made(
            *args: _P.args, **kwargs: _P.kwargs
        ) -> optax.GradientTransformationExtraArgs:
            mup: Any = kwargs.get("mup")
            if mup is None or isinstance(mup, str):
                return factory(*args, **kwargs)
            view = _View(mup, batched)
            if view.changes:
                kwargs["mup"] = view.mup
                for name in ("mask", "matrices"):
                    function: Any = kwargs.get(name)
                    if callable(function):
                        kwargs[name] = view.of_own_form(function)
            return _seeing(view, factory(*args, **kwargs))

        return made

    return decorate


def _seeing(view, inner):
    """A rule on its view of the leaves."""
    templates = {}  # Of the rule's state, by what it is the state for.

    def template(seen):
        leaves, treedef = jax.tree.flatten(seen)
        key = treedef, tuple((jnp.shape(x), jnp.result_type(x)) for x in leaves)
        if key not in templates:
            templates[key] = jax.eval_shape(inner.init, seen)
        return templates[key]

    def init_fn(params):
        mup_lib.align(view.given, params, scalings=view.given)
        if not view.changes:
            return inner.init(params)
        return _stack(inner.init(view.apply(params)))

    def update_fn(updates, state, params=None, **extra_args):
        if not view.changes:
            return inner.update(updates, state, params, **extra_args)
        seen = None if params is None else view.apply(params)
        grads = view.apply(updates)
        state = _unstack(state, template(grads if seen is None else seen))
        new, state = inner.update(grads, state, seen, **extra_args)
        return view.undo(new, updates), _stack(state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@jax.tree_util.register_pytree_with_keys_class
class _Copies:
    """What the rule sees in place of a leaf with copies: as many leaves."""

    def __init__(self, parts):
        self.parts = tuple(parts)

    def tree_flatten_with_keys(self):
        keyed = enumerate(self.parts)
        return [(jax.tree_util.FlattenedIndexKey(k), x) for k, x in keyed], None

    def tree_flatten(self):
        return self.parts, None

    @classmethod
    def tree_unflatten(cls, aux, children):
        del aux
        return cls(children)


def _is_copies(x):
    return isinstance(x, _Copies)


def _stack(state):
    """The rule's state with an axis in front of what it holds for copies."""
    return jax.tree.map(
        lambda x: (
            jax.tree.map(lambda *parts: jnp.stack(parts), *x.parts)
            if _is_copies(x)
            else x
        ),
        state,
        is_leaf=_is_copies,
    )


def _unstack(state, like):
    """Undo `_stack`."""
    return jax.tree.map(
        lambda wanted, x: (
            _Copies(
                jax.tree.map(lambda a, k=k: a[k], x) for k in range(len(wanted.parts))
            )
            if _is_copies(wanted)
            else x
        ),
        like,
        state,
        is_leaf=_is_copies,
    )


class _View:
    """Trees as a rule sees them, and back.

    Attributes:
      given: The μP tree of the parameters.
      mup: Of what the rule sees.
      changes: Whether the two differ.
    """

    def __init__(self, mup, batched):
        self.given = mup
        self._batched = batched
        self._like = None  # Shapes of the parameters seen last.
        leaves = jax.tree.leaves(mup)
        # What is no Scaling is for the rule to refuse.
        self.changes = all(isinstance(x, Scaling) for x in leaves) and any(
            map(_differs, leaves)
        )
        self.mup = jax.tree.map(self._inner, mup) if self.changes else mup

    def apply(self, tree):
        """What the rule sees of a tree like the parameters, maybe masked."""
        scalings = mup_lib.align(self.given, tree, scalings=self.given)
        if scalings is tree:  # A stand-in for parameters, as of tree.map_params.
            return tree

        def see(path, x, scaling):
            if is_masked(x) or not _differs(scaling):
                return x
            layout, where = _axes(path, scaling, jnp.shape(x))
            parts = axes_lib.split(jnp.asarray(x), layout, where)
            if scaling.copies == 1:
                return parts[0]
            if not self._batched:
                return _Copies(parts)
            if scaling.role == "hidden" and not scaling.finite:
                return parts.reshape(-1, scaling.fan_in, scaling.fan_out)
            return parts

        self._like = jax.tree.map(
            lambda x: (
                x if is_masked(x) else jax.ShapeDtypeStruct(jnp.shape(x), x.dtype)
            ),
            tree,
            is_leaf=is_masked,
        )
        return _map(see, tree, scalings)

    def undo(self, seen, like):
        """The tree that `apply` makes this of, in the form of another."""
        scalings = mup_lib.align(self.given, like, scalings=self.given)
        if scalings is like:
            return seen

        def back(path, x, scaling, parts):
            if is_masked(x) or not _differs(scaling):
                return parts
            leaves = jax.tree.leaves(parts)
            if not leaves:  # Masked inside the rule.
                return optax.MaskedNode()
            shape = jnp.shape(x)
            layout, where = _axes(path, scaling, shape)
            one = axes_lib.canonical(layout, axes_lib.without_copies(shape, where))
            parts = jnp.stack(leaves).reshape(-1, *one)
            return axes_lib.join(parts, shape, layout, where)

        return _map(back, like, scalings, seen)

    def of_own_form(self, function):
        """A function of parameters, from what the rule sees of them."""
        # What it returns, a value per leaf, is a prefix of what the rule sees.
        return lambda seen: function(self.undo(seen, self._like))

    def _inner(self, scaling):
        """Of what the rule sees of a leaf."""
        one = Scaling(scaling.role, scaling.fan_in, scaling.fan_out, scaling.finite)
        if scaling.copies == 1:
            return one if _differs(scaling) else scaling
        if self._batched:
            axes = ((0, scaling.copies),)
            return Scaling(*_fields(one), copies=scaling.copies, copy_axes=axes)
        return _Copies((one,) * scaling.copies)


def _map(function, tree, *rest):
    return jax.tree_util.tree_map_with_path(function, tree, *rest, is_leaf=is_masked)


def _fields(scaling):
    return scaling.role, scaling.fan_in, scaling.fan_out, scaling.finite


def _differs(scaling):
    return scaling.copies > 1 or scaling.layout != "in_out"


def _axes(path, scaling, shape):
    """Layout and copy axes of a leaf."""
    where = scaling.copy_axes
    if scaling.copies > 1 and not where:
        where = axes_lib.find_copies(
            shape, scaling.copies, scaling.fan_in, scaling.layout
        )
    fits = where is not None and all(
        k < len(shape) and shape[k] % count == 0 for k, count in where
    )
    if not fits:
        name = trees.label(trees.keystr(path))
        raise ValueError(
            f"{name} of shape {shape} holds {scaling.copies} copies, and they are not "
            f"where {scaling!r} says. Give its Scaling copy_axes=((axis, copies),), or "
            "use stacked= or fused= of mulo.mup.infer."
        )
    return scaling.layout, where
