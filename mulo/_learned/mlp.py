"""The network on every entry of an array, and how it is computed cheaply.

The published networks see 28 to 39 inputs per parameter. Exact rewritings leave 16 to
18 of them; the feature-last originals are kept as oracles of the tests:

* time features are the same for every parameter: they are in the bias already;
* a feature's normalizer is one number per tensor or matrix: it goes into the weights;
* row and column features vary along one axis only: their share of the first layer is
  computed per row and per column, and added.

A network of few units is no chain of matrix products but some hundred multiply-adds per
parameter: it is written out in scalars, one fused loop
(:mod:`mulo._learned.scalar_network`). For a larger one the features are laid out
feature-major and sent through matrix products in blocks of rows, which stay in a CPU's
cache.
Scalars and vectors have nothing to factor; they are small, and those that share a
network go through it as one long vector.

Axis names: F features, H hidden units of the first layer, M momenta, K, A and B of an
array seen as K matrices, N entries of the long vector, L arrays in it.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mulo._learned import (
    features,
    long_vectors,
    placement,
    row_blocks,
    scalar_network,
)
from mulo._learned.accumulators import Decays, Factoring, LeafState


class Network(NamedTuple):
    """The MLP; with a leading axis, several."""

    features: jax.Array  # (F, H). First layer, groups in the order of the form's.
    bias: jax.Array  # (H,). First-layer bias, with the share of time features.
    layers: tuple[tuple[jax.Array, jax.Array], ...]  # Remaining (weights, bias).


@dataclasses.dataclass(frozen=True)
class Stepper:
    """The step of one tensor, or of many scalars and vectors."""

    form: features.Form
    network: Network
    decays: Decays  # Effective rates.
    # Scale of the magnitude inside the exponential: steps are d * exp(exp_mult * m).
    # None: they are d, the first output of the last layer.
    exp_mult: float | None = None

    @property
    def is_small(self) -> bool:
        """Whether the network is best written out in scalars."""
        inputs = len(self._names(self.form.matrix_groups))
        sizes = [len(weights) for weights, _ in self.network.layers]
        return scalar_network.is_small(inputs, [*sizes, self._num_outputs])

    @property
    def at_once(self) -> int | None:
        """Entries that a CPU should step at a time; None if it makes no difference."""
        return None if self.is_small else row_blocks.CPU_BLOCK_SIZE

    @property
    def _num_outputs(self):
        return 1 if self.exp_mult is None else 2

    def moments(self, grad: jax.Array, state: LeafState) -> LeafState:
        """What one gradient makes of the moments of single entries."""
        return features.moments(self.form, self.decays, grad, state)

    def step(
        self, grad: jax.Array, param: jax.Array, state: LeafState
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """One step on one array.

        Args:
          grad: Gradient, floating.
          param: Parameters, as grad.
          state: Accumulators, with new `moments`.

        Returns:
          The network's answer of shape ``grad.shape``, float32, and the accumulators
          that are new by now.
        """
        factoring = Factoring.of(jnp.shape(grad))
        if factoring is None:
            (out,), (new,) = self.vectors([grad], [param], [state])
            return out, new
        matrices = features.Matrices(grad.shape, factoring, self.form.by_matrix)
        grad, param, new = features.factored(self.form, self.decays, grad, param, state)
        arrays = tuple(matrices.split(x) for x in (grad, param, new.momentum, new.rms))
        stats, factors = matrices.sides(new)
        bias = self.network.bias.reshape(-1, 1, 1, 1)
        shares = (
            bias + self._share(stats, "row", "inverse_row"),
            self._share(stats, "column", "inverse_column"),
        )
        if not factoring.rows_along_a:
            factors, shares = factors[::-1], shares[::-1]
        # Normalizers of single matrices would make weights of single matrices.
        small = self.is_small or self.form.by_matrix
        run = self._in_scalars if small else self._in_matrices
        return matrices.merge(run(arrays, factors, shares)), _renewed(new)

    def _share(self, stats, *groups):
        """First-layer share of row or column groups (M, K, A, B): (H, K, A, B)."""
        made = jnp.concatenate([stats[group] for group in groups])
        axes = (2, 3) if self.form.by_matrix else (1, 2, 3)
        scale = self.form.inverse_rms(jnp.mean(jnp.square(made), axes, keepdims=True))
        return jnp.einsum(
            "fkab,fh->hkab",
            made * scale,
            self._weights(groups),
            precision=jax.lax.Precision.HIGHEST,
        )

    def _in_scalars(self, arrays, factors, shares):
        """The network in one loop.

        Args:
          arrays: g, p (K, A, B), m (M, K, A, B) and v (K, A, B).
          factors: Adafactor's, (M, K, A, 1) and (M, K, 1, B).
          shares: Of the row and column features in the first layer, bias included:
            (H, K, A, 1) and (H, K, 1, B).

        Returns:
          shape=(K, A, B).
        """
        made_of = (*arrays, *factors)
        weights = self._matrix_weights(made_of)
        hidden = [a + b for a, b in zip(*shares, strict=True)]
        made_of = scalar_network.made_anew(made_of)
        planes = features.matrix_planes(self.form, *made_of)
        return self._written_out(hidden, planes, weights)

    def _in_matrices(self, arrays, factors, shares):
        """As `_in_scalars`, as matrix products on blocks of rows."""
        # First pass over the array: what each feature is divided by.
        weights = self._matrix_weights((*arrays, *factors))[..., 0, 0, 0]

        # Second pass: the network.
        def run(g, p, m, v, factor_a, share_a, factor_b, share_b):
            """(…, A, B) arrays, any number of rows A; shares (H, …, A), (H, …, B)."""
            factors = factor_a[..., :, None], factor_b[..., None, :]
            planes = features.matrix_planes(self.form, g, p, m, v, *factors)
            shares = share_a[..., :, None], share_b[..., None, :]
            return self._multiplied(shares, planes, weights)

        factor_a, factor_b = factors[0][..., 0], factors[1][..., 0, :]
        share_a, share_b = shares[0][..., 0], shares[1][..., 0, :]
        return row_blocks.in_blocks(
            run, arrays[0].shape, (*arrays, factor_a, share_a), (factor_b, share_b)
        )

    def _matrix_weights(self, made_of):
        """First layer, normalizers included: (F, H, K or 1, 1, 1)."""
        groups = self.form.matrix_groups
        by_row = scalar_network.row_mean_squares(
            features.matrix_planes(self.form, *made_of), self._read_together(groups)
        )
        axes = 2 if self.form.by_matrix else (1, 2)
        mean_square = jnp.mean(by_row, axes, keepdims=True)
        scale = self.form.inverse_rms(mean_square)[:, None, :, :, None]
        return self._weights(groups)[:, :, None, None, None] * scale

    def vectors(
        self, grads: list[Any], params: list[Any], states: list[Any]
    ) -> tuple[list[Any], list[Any]]:
        """One step on scalars and vectors, as :meth:`step` on each.

        Args:
          grads: Gradients, a list of floating arrays of at most one axis.
          params: Parameters, as grads.
          states: Accumulators, one per array, with new `moments`.

        Returns:
          Lists of the network's answers, float32, and of new accumulators.
        """
        return long_vectors.in_chunks(self._long_vector, grads, params, states)

    def _long_vector(self, grads, params, states):
        layout = long_vectors.Layout(grads)
        g, p, new = features.factored(
            self.form,
            self.decays,
            layout.join(grads),
            layout.join(params),
            layout.join_states(states),
        )
        arrays = (g, p, new.momentum, new.rms, new.along_a)
        groups = self.form.vector_groups
        weights = self._weights(groups)
        if "row" in groups:
            # Row and column features coincide here: their weights add up.
            columns = self._weights(("column", "inverse_column"))
            planes, rows = jnp.split(weights, [len(weights) - len(columns)])
            weights = jnp.concatenate([planes, rows + columns])

        def planes_of(*arrays):
            return features.vector_planes(self.form, *arrays)

        def mean_squares(*arrays):
            together = self._read_together(groups)
            return scalar_network.mean_squares(planes_of(*arrays), together)

        def run(planes, weights):
            if self.is_small:
                return self._written_out(list(self.network.bias), planes, weights)
            return self._multiplied([self.network.bias[:, None]], planes, weights)

        # Each array is normalized on its own: what overflows in one stays there.
        if len(grads) > 1:
            made = jnp.stack(planes_of(*arrays))
            scale = self.form.inverse_rms(layout.mean_squares(made))
            out = run(list(made * layout.spread(scale)), weights)
        elif layout.in_blocks:
            mean_square = long_vectors.mean_of_blocks(mean_squares, arrays)
            weights = weights * self.form.inverse_rms(mean_square)[:, None]
            out = long_vectors.by_blocks(
                lambda *xs: run(planes_of(*xs), weights), arrays
            )
        else:
            weights = weights * self.form.inverse_rms(mean_squares(*arrays))[:, None]
            out = run(planes_of(*scalar_network.made_anew(arrays)), weights)
        return layout.split(out), [_renewed(x) for x in layout.split_states(new)]

    def _weights(self, groups):
        """Rows of the first layer, (F, H)."""
        rows = self.form.rows(len(self.network.features))
        picked = [i for group in groups for i in rows[group]]
        return self.network.features[np.asarray(picked)]

    def _names(self, groups):
        """Of each feature, its group."""
        rows = self.form.rows(len(self.network.features))
        return [group for group in groups for _ in rows[group]]

    def _read_together(self, groups):
        """Positions of features to be reduced at once."""
        names = self._names(groups)
        together = (
            [i for i, name in enumerate(names) if name in read]
            for read in features.READ_TOGETHER
        )
        return [positions for positions in together if positions]

    def _written_out(self, hidden, planes, weights):
        """H arrays to add, F planes (…), (F, H, …) → (…), in scalars."""
        return self._answer(
            scalar_network.mlp(
                hidden, planes, weights, self.network.layers, self._num_outputs
            )
        )

    def _multiplied(self, shares, planes, weights):
        """The network in matrix products.

        Args:
          shares: Arrays that add up to (H, …): what the first layer has besides.
          planes: F arrays (…).
          weights: Of the first layer, (F, H).

        Returns:
          shape=(…).
        """
        x = _product(weights, _stacked(planes))
        *middle, (last, last_bias) = self.network.layers
        for kernel, bias in middle:
            x = _product(kernel, _activated(x, shares))
            shares = [bias.reshape(-1, *(1,) * (x.ndim - 1))]
        sums = _weighted_sums(x, shares, last[:, : self._num_outputs])
        biases = last_bias[: self._num_outputs]
        return self._answer([x + b for x, b in zip(sums, biases, strict=True)])

    def _answer(self, outputs):
        if self.exp_mult is None:
            return outputs[0]
        direction, magnitude = outputs
        return direction * jnp.exp(self.exp_mult * magnitude)


def _renewed(state):
    return {"along_a": state.along_a, "along_b": state.along_b}


def _stacked(arrays):
    """Arrays (…) as (F, …)."""
    # Not `jnp.stack`: vmap would put its axis second, and another pass first again.
    return jnp.concatenate([x.reshape(1, *x.shape) for x in arrays])


def _product(kernel, x):
    """A layer (I, J) of (I, …): (J, …)."""
    # Accelerators would round the factors (TF32, bfloat16); it is memory that they wait
    # for here, not arithmetic.
    full = jax.lax.Precision.HIGHEST
    if not placement.is_on_one_cpu():
        return jax.lax.dot_general(kernel, x, (((0,), (0,)), ((), ())), precision=full)
    # With axes of vmap in front, products of two axes are faster.
    product = jnp.matmul(kernel.T, x.reshape(len(x), -1), precision=full)
    return product.reshape(-1, *x.shape[1:])


def _activated(x, shares):
    """ReLU of x (H, …) and of what is added to it."""
    if jax.default_backend() != "cpu":
        return scalar_network.relu(_sum([x, *shares]))
    # In two parts: XLA would make the whole in the flat shape of the next product,
    # where it can tell rows from columns entry by entry only; parts it makes in theirs.
    half = len(x) // 2
    parts = [slice(0, half), slice(half, None)] if half else [slice(None)]
    return jnp.concatenate(
        [
            scalar_network.relu(_sum([x[part], *(share[part] for share in shares)]))
            for part in parts
        ]
    )


def _weighted_sums(x, shares, weights):
    """ReLU of x (H, …) and of what is added to it, times (H, K): K arrays (…)."""
    if jax.default_backend() != "cpu":
        return list(_product(weights, _activated(x, shares)))
    # A product of so few columns would be slower than one loop.
    units = [scalar_network.relu(_sum(xs)) for xs in zip(x, *shares, strict=True)]
    return [_weighted_sum(units, column) for column in weights.T]


def _weighted_sum(arrays, weights):
    """Sum of arrays (…) times scalars, a few at a time: no long chain of additions."""
    terms = [x * w for x, w in zip(arrays, weights, strict=True)]
    while len(terms) > 1:
        terms = [_sum(terms[i : i + 8]) for i in range(0, len(terms), 8)]
    return terms[0]


def _sum(arrays):
    return functools.reduce(jnp.add, arrays)
