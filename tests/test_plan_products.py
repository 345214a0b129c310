"""FLOPs of traced programs against counts by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from clip_jax.experiment import Plan
from clip_jax.models.flops import train_flops_per_pair
from clip_jax.plan.products import product_cost

X, W = jnp.zeros((3, 4), jnp.float32), jnp.zeros((4, 4), jnp.float32)
ONE = 2 * 3 * 4 * 4


def scanned(x: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ W), None), x, length=5)[0]


def chosen(x: jax.Array) -> jax.Array:
    return jax.lax.cond(x.sum() > 0, lambda x: x @ W @ W, lambda x: x @ W, x)


@pytest.mark.parametrize(
    ("function", "products"),
    [
        (lambda x: x @ W, 1),
        (jax.jit(lambda x: x @ W), 1),
        (scanned, 5),
        (chosen, 2),
        (lambda x: jax.grad(lambda x: (x @ W).sum())(x), 1 + 1),  # forward, and the gradient to x alone
        (lambda x: jax.grad(lambda x: jax.checkpoint(lambda x: jnp.tanh(x @ W))(x).sum())(x), 3),  # and once more
        (lambda x: jnp.einsum("ij,kj->ik", x, W), 1),
    ],
    ids=["product", "jit", "scan", "cond", "grad", "remat", "einsum"],
)
def test_products(function, products):
    assert product_cost(jax.make_jaxpr(function)(X)).flops == products * ONE


def test_bytes_are_of_operands_and_results():
    assert product_cost(jax.make_jaxpr(scanned)(X)).bytes == 5 * 4 * (12 + 16 + 12)


def test_convolution():
    image, kernel = jnp.zeros((2, 5, 5, 3), jnp.float32), jnp.zeros((2, 2, 3, 7), jnp.float32)

    def convolve(x: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert product_cost(jax.make_jaxpr(convolve)(image)).flops == 2 * (2 * 4 * 4 * 7) * (2 * 2 * 3)


def test_a_shard_map_counts_for_each_of_its_devices(mesh8):
    rows = PartitionSpec(("replica", "data", "fsdp"))
    mapped = jax.shard_map(lambda x: x @ W, mesh=mesh8, in_specs=rows, out_specs=rows)
    assert product_cost(jax.make_jaxpr(mapped)(jnp.zeros((24, 4), jnp.float32))).flops == 8 * ONE


def test_of_a_training_step_the_towers_are_what_the_configuration_says(small_plan: Plan):
    config = small_plan.config
    found = product_cost(small_plan.step.trace(small_plan.state, small_plan.batch()).jaxpr).flops
    batch, size = config.batch_size, config.model.embed_dim
    loss = 2 * 3 * 2 * batch * batch * size  # both ways, forward and two gradients
    patches = small_plan.config.model.vision_cfg
    # 6 FLOPs a multiply-add, but for the gradient to the pixels, which nobody asks for.
    pixels = 2 * batch * (patches.grid**2) * 3 * patches.patch_size**2 * patches.width
    assert found - loss == pytest.approx(batch * train_flops_per_pair(config.model) - pixels, rel=0.02)
