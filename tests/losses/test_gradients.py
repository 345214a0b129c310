"""GD by another road: its gradients are autodiff's, and nothing it computes is larger than N x N."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clip_jax.losses import contrastive, gradients
from clip_jax.losses.collect import GlobalBatch
from clip_jax.sharding import BATCH
from tests.losses.checks import RELATED, flat, loss_and_grads, unit_rows

S, T = np.float32(1 / 0.07), np.float32(20)
info_nce, gd = flat(contrastive.info_nce, 3), flat(gradients.gd, 3, 3)
contrastive_gradients = flat(gradients.contrastive_gradients, 3)


def one_way(anchors: jax.Array, keys: jax.Array, scale: jax.Array) -> jax.Array:
    """CE(s p k') on one device."""
    log_p = jax.nn.log_softmax(scale * jnp.matmul(anchors, keys.T, precision="highest"), axis=1)
    return -jnp.diagonal(log_p).mean()


def four(image: jax.Array, text: jax.Array, scale: jax.Array) -> tuple[jax.Array, ...]:
    both = jax.grad(one_way, argnums=(0, 1))
    return *both(image, text, scale), *both(text, image, scale)


def by_autodiff(image, text, scale, teacher_image, teacher_text, teacher_scale):
    pairs = zip(four(image, text, scale), four(teacher_image, teacher_text, teacher_scale), strict=True)
    return sum(jnp.square(own - target).mean() for own, target in pairs)


def on_mesh(mesh):
    rows, whole = jax.P(BATCH), jax.P()
    return jax.shard_map(
        lambda *args: contrastive_gradients(*args, batch=GlobalBatch(axes=BATCH)),
        mesh=mesh,
        in_specs=(rows, rows, whole),
        out_specs=rows,
    )


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_its_gradients_are_those_of_autodiff(scale, mesh8):
    image, text, factor = unit_rows(0), unit_rows(1), np.float32(scale)
    wanted = jax.jit(four)(image, text, factor)
    for run in (contrastive_gradients, on_mesh(mesh8)):
        found = jax.jit(run)(image, text, factor)
        for ours, theirs in zip(found, wanted, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())
        whole = jax.grad(info_nce, argnums=(0, 1))(image, text, factor)
        np.testing.assert_allclose((found[0] + found[3]) / 2, whole[0], atol=1e-6 * scale)
        np.testing.assert_allclose((found[1] + found[2]) / 2, whole[1], atol=1e-6 * scale)


def test_its_own_gradient_is_autodiff_of_autodiff():
    given = unit_rows(2), unit_rows(3), S, unit_rows(4), unit_rows(5), T
    wanted = jax.jit(jax.value_and_grad(by_autodiff, argnums=(0, 1, 2)))(*given)
    for mesh in [(0, 0), (8, 1)]:
        found = loss_and_grads(gd, RELATED, mesh)(*given)
        assert float(found[0]) == pytest.approx(float(wanted[0]), rel=1e-5)
        for ours, theirs in zip(found[1], wanted[1], strict=False):
            np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


def sizes(jaxpr: Any) -> Iterator[int]:
    """Elements of every array computed, inner functions' included."""
    for equation in jaxpr.eqns:
        yield from (int(np.prod(out.aval.shape)) for out in equation.outvars)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from sizes(inner)


def largest(loss: Any, *args: Any) -> int:
    return max(sizes(jax.make_jaxpr(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*args).jaxpr))


def official(image, text, scale, teacher_image, teacher_text, teacher_scale):
    """dL/dk by the tensor of N x D x N."""
    error = jax.nn.softmax(scale * image @ text.T, axis=1) - jnp.eye(len(image), dtype=jnp.float32)
    own = (error[:, None, :] * image[:, :, None]).sum(0).T
    return jnp.square(own - teacher_text).mean()


def test_nothing_it_computes_is_larger_than_n_by_n():
    count, size = 128, 64
    args = *(unit_rows(seed, count, size) for seed in (0, 1)), S, *(unit_rows(seed, count, size) for seed in (2, 3)), T
    assert largest(gd, *args) == count * count
    assert largest(official, *args) == count * count * size  # so the measure would see it
    compiled = jax.jit(jax.value_and_grad(gd, argnums=(0, 1, 2))).lower(*args).compile()
    matrices = 4 * (count * count + 4 * count * size)  # bytes of f32
    assert compiled.memory_analysis().temp_size_in_bytes < 10 * matrices < 4 * count * count * size
