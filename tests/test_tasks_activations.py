import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import full_compile

from tasks import names
from tasks.models import activations

X = np.array([-3.0, -0.5, 0.0, 0.25, 2.0], np.float32)
EXPECTED = {
    "relu": lambda x: max(x, 0.0),
    "tanh": math.tanh,
    "gelu": lambda x: (
        x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
}


@pytest.mark.parametrize("name", names.ACTIVATIONS)
def test_each_name_stands_for_its_function(name):
    got = full_compile.jit(activations.get(name))(jnp.asarray(X))
    expected = [EXPECTED[name](float(x)) for x in X]
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


def test_a_function_is_returned_as_it_is():
    assert activations.get(jnp.sin) is jnp.sin


def test_an_unknown_name_is_refused_with_the_nearest_known_one():
    with pytest.raises(ValueError, match=r"got 'tanhh'. Did you mean 'tanh'\?"):
        activations.get("tanhh")


def test_select_picks_by_an_index_that_is_traced_and_vmapped():
    @jax.jit
    @jax.vmap
    def apply(index):
        return activations.select(names.ACTIVATIONS, index)(jnp.asarray(X))

    got = apply(jnp.arange(len(names.ACTIVATIONS)))
    for i, name in enumerate(names.ACTIVATIONS):
        expected = [EXPECTED[name](float(x)) for x in X]
        np.testing.assert_allclose(got[i], expected, rtol=1e-6, atol=1e-7)
    assert len(np.unique(got[:, 0])) == len(names.ACTIVATIONS)


def test_select_refuses_unknown_names_before_it_is_called():
    with pytest.raises(ValueError, match="got 'step'"):
        activations.select(("relu", "step"), 0)
