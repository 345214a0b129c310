"""The gradient of a large batch from small parts of it, with all its negatives. Gao et al. 2021 (GradCache); Cui et al. 2022.

The embeddings of all parts come first and keep nothing; the loss of all of them gives each embedding's slope; then each part is
embedded once more, on the same random numbers, and carries its slopes back to the parameters. Activations are of one part at a
time, whatever their number; what grows with the batch is its inputs and embeddings.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clip_jax.sharding import BATCH, batch_sharding, batch_shards

Embed = Callable[[Any, Any], Any]  # parameters, inputs [b@(replica, data, fsdp), ...] -> embeddings with the same rows
Goal = Callable[[Any, Any], tuple[jax.Array, Any]]  # parameters, embeddings of the whole batch -> loss f32[], more


def by_parts(embed: Embed, goal: Goal, parts: int, mesh: Mesh, shardings: Any) -> Callable[[Any, Any], Any]:
    """(params, inputs) -> ((loss, more), gradient) of goal(params, embed(params, inputs)), embedded in `parts` parts.

    inputs: a tree of [B@(replica, data, fsdp), ...]; each device's rows split into the parts. embed must treat rows one by
    one. shardings: where the parameters, and their gradients, lie.
    """

    def run(params: Any, inputs: Any) -> Any:
        pieces = cut_rows(inputs, parts, mesh)
        rows = joined_rows(jax.lax.map(functools.partial(embed, params), pieces), mesh)
        (loss, more), (grads, slopes) = jax.value_and_grad(goal, argnums=(0, 1), has_aux=True)(params, rows)

        def add(grads: Any, at: Any) -> tuple[Any, None]:
            piece, slope = at
            [more] = jax.vjp(lambda params: embed(params, piece), params)[1](slope)
            return jax.lax.with_sharding_constraint(jax.tree.map(jnp.add, grads, more), shardings), None

        return (loss, more), jax.lax.scan(add, grads, (pieces, cut_rows(slopes, parts, mesh)))[0]

    return run


def cut_rows(rows: Any, parts: int, mesh: Mesh) -> Any:
    """[B@(replica, data, fsdp), ...] -> [parts, B / parts@(replica, data, fsdp), ...]; no row changes its device."""
    devices = batch_shards(mesh)
    at = NamedSharding(mesh, PartitionSpec(None, BATCH))

    def one(x: jax.Array) -> jax.Array:
        cut = x.reshape(devices, parts, -1, *x.shape[1:]).swapaxes(0, 1)
        return jax.lax.with_sharding_constraint(cut.reshape(parts, -1, *x.shape[1:]), at)

    return jax.tree.map(one, rows)


def joined_rows(rows: Any, mesh: Mesh) -> Any:
    """The inverse of `cut_rows`."""
    devices = batch_shards(mesh)

    def one(x: jax.Array) -> jax.Array:
        joined = x.reshape(x.shape[0], devices, -1, *x.shape[2:]).swapaxes(0, 1)
        return jax.lax.with_sharding_constraint(joined.reshape(-1, *x.shape[2:]), batch_sharding(mesh))

    return jax.tree.map(one, rows)
