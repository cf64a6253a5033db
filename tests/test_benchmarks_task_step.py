import jax
import jax.numpy as jnp
import numpy as np

import tasks
from benchmarks import task_step


def test_every_matmul_of_a_gradient_is_found_and_counted():
    task = tasks.get("mlp-w8-d3-synthetic:2x2x1:3", batch_size=5)
    params = jax.eval_shape(task.init, jax.random.key(0))
    batch = {
        "inputs": jax.ShapeDtypeStruct((5, 2, 2, 1), jnp.float32),
        "labels": jax.ShapeDtypeStruct((5,), jnp.int32),
    }

    def gradient(params, batch):
        return jax.value_and_grad(task.loss)(params, jax.random.key(0), batch)

    found = task_step.matmuls_of(gradient, params, batch)
    # Four layers forward, four weight gradients, and what goes back to three inputs.
    assert sum(matmul.count for matmul in found) == 4 + 4 + 3
    # The two hidden layers are alike, so their three products come twice.
    assert sorted(matmul.count for matmul in found) == [1, 1, 1, 1, 1, 2, 2, 2]


def test_matmuls_inside_loops_and_branches_are_found():
    def looped(x):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ x), None), x, length=3)[0]

    assert sum(m.count for m in task_step.matmuls_of(looped, jnp.ones((4, 4)))) == 1


def test_a_matmul_alone_computes_what_it_does_in_its_program():
    (found,) = task_step.matmuls_of(jnp.dot, jnp.ones((2, 3)), jnp.ones((3, 4)))
    a, b = (
        jax.random.normal(key, shape)
        for key, shape in zip(
            jax.random.split(jax.random.key(0)), [(2, 3), (3, 4)], strict=True
        )
    )
    (out,) = [found.run()]
    np.testing.assert_allclose(out, a @ b, rtol=1e-6)


def test_the_tasks_timed_are_names_that_exist():
    for name, batch_size in task_step.TASKS:
        assert str(tasks.names.parse(name)) == name
        assert batch_size >= 1
