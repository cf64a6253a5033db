import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mulo._designed import blocks


def options(**kwargs):
    return blocks.Options(**({"max_precondition_dim": 100} | kwargs))


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("shape", [(), (5,), (4, 6), (7, 4), (5, 9, 3), (2, 3, 8, 5)])
@pytest.mark.parametrize("block_size", [None, 1, 3, 4])
def test_cutting_into_blocks_and_joining_gives_the_leaf_back(shape, block_size):
    leaves = [draw(*shape, seed=seed) for seed in range(2)]
    (group,) = blocks.layout(
        leaves, options(block_size=block_size, precondition_1d=True)
    )
    stacked = group.stack(leaves)
    parts = group.split(stacked)
    for region, part in zip(group.regions, parts, strict=True):
        assert part.shape[2:] == region.sizes
        assert all(s <= (block_size or 100) for s in region.sizes)
    assert sum(part.size for part in parts) == stacked.size
    out = [jnp.zeros_like(leaf) for leaf in leaves]
    group.unstack(group.join(parts), out)
    for a, b in zip(leaves, out, strict=True):
        np.testing.assert_array_equal(a, b)


def test_blocks_are_the_submatrices_in_rows_and_the_rest_is_smaller():
    leaf = draw(5, 6)
    (group,) = blocks.layout([leaf], options(block_size=2))
    main, rest = group.split(group.stack([leaf]))
    assert main.shape == (1, 6, 2, 2)
    assert rest.shape == (1, 3, 1, 2)
    np.testing.assert_array_equal(main[0, 4], leaf[2:4, 2:4])
    np.testing.assert_array_equal(rest[0, 2], leaf[4:, 4:])


def test_leaves_of_a_shape_share_a_group_and_masked_or_empty_ones_are_left_out():
    leaves = [
        draw(3, 4),
        optax.MaskedNode(),
        draw(4, 3),
        draw(3, 4),
        draw(0, 4),
        jnp.ones((3, 4), jnp.bfloat16),
        draw(3),
        jnp.asarray(1.0),
    ]
    groups = {g.name: g for g in blocks.layout(leaves, options())}
    assert {name: g.leaves for name, g in groups.items()} == {
        "3x4": (0, 3, 5),
        "4x3": (2,),
        "3:-": (6,),
        "scalar": (7,),
    }
    assert groups["3x4"].dtype == "float32"
    with jax.enable_x64(True):
        wide = blocks.layout([jnp.ones((3, 4), jnp.float64), leaves[0]], options())
    assert [g.name for g in wide] == ["3x4:float64", "3x4"]


@pytest.mark.parametrize(
    ("shape", "given", "dims", "tracked"),
    [
        ((40, 3), {"max_precondition_dim": 16}, (40, 3), (False, True)),
        ((40, 3), {"one_sided": True}, (40, 3), (False, True)),
        ((5, 5), {"one_sided": True}, (5, 5), (True, False)),
        ((5,), {}, (5,), (False,)),
        ((5,), {"precondition_1d": True}, (5,), (True,)),
        (
            (40, 3),
            {"block_size": 16, "max_precondition_dim": 16},
            (40, 3),
            (True, True),
        ),
        (
            (2, 4, 3, 3),
            {"merge_dims": True, "max_precondition_dim": 64},
            (24, 3),
            (True, True),
        ),
        ((2, 4, 3, 3), {"merge_dims": True}, (72,), (True,)),
        ((200, 1, 3, 3), {"merge_dims": True}, (200, 9), (False, True)),
        ((1, 1), {"merge_dims": True}, (1,), (True,)),
    ],
)
def test_which_axes_are_merged_and_preconditioned(shape, given, dims, tracked):
    (group,) = blocks.layout([jnp.ones(shape)], options(**given))
    assert group.dims == dims
    assert group.tracked == tracked


def test_rotating_there_and_back_is_nothing_for_orthogonal_matrices():
    x = draw(2, 3, 4, 5, 2)
    bases = [
        jnp.linalg.qr(draw(2, 3, 4, 4))[0],
        None,
        jnp.linalg.qr(draw(2, 3, 2, 2))[0],
    ]
    there = blocks.rotate(x, bases)
    want = np.einsum("ijk,il,kn->ljn", x[1, 2], bases[0][1, 2], bases[2][1, 2])
    np.testing.assert_allclose(there[1, 2], want, atol=1e-5)
    back = blocks.rotate(there, bases, back=True)
    np.testing.assert_allclose(back, x, atol=1e-5)


def test_outer_products_contract_all_other_axes():
    x = draw(2, 1, 4, 5, 2)
    matrix = np.moveaxis(np.asarray(x[1, 0]), 1, 0).reshape(5, -1)
    np.testing.assert_allclose(blocks.outer(x, 1)[1, 0], matrix @ matrix.T, atol=1e-5)


def test_by_size_calls_once_per_size_and_keeps_the_order():
    calls = []

    def double(matrix, vector):
        calls.append(matrix.shape)
        return 2 * matrix, vector + 1

    matrices = [draw(2, 3, 4, 4), draw(1, 1, 2, 2), draw(1, 5, 4, 4)]
    vectors = [m[..., 0] for m in matrices]
    results = blocks.by_size(double, matrices, vectors)
    assert calls == [(11, 4, 4), (1, 2, 2)]
    for m, v, (m2, v1) in zip(matrices, vectors, results, strict=True):
        np.testing.assert_array_equal(m2, 2 * m)
        np.testing.assert_array_equal(v1, v + 1)


def test_leaves_with_nan_inf_or_an_overflowing_norm_are_told_apart():
    grads = (
        draw(4, 2, 3).at[1, 0, 0].set(jnp.nan).at[2].set(1e25).at[3, 1, 1].set(-jnp.inf)
    )
    clean, finite = blocks.finite_only(grads)
    np.testing.assert_array_equal(finite, [True, False, False, False])
    np.testing.assert_array_equal(clean[0], grads[0])
    np.testing.assert_array_equal(clean[1:], 0.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"max_precondition_dim": 0},
            "max_precondition_dim must be an integer >= 1.*got 0",
        ),
        ({"block_size": 2.5}, "block_size must be an integer >= 1.*got 2.5"),
        ({"block_size": jnp.asarray(4)}, "block_size.*static_args"),
        ({"block_size": 200}, "at most max_precondition_dim.*got 200 and 100"),
    ],
)
def test_options_out_of_range_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        options(**given)
