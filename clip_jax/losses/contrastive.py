"""InfoNCE over the global batch, both directions. Radford et al. 2021, figure 3."""

import jax

from clip_jax.losses.collect import HERE, GlobalBatch, mean
from clip_jax.losses.pairs import Pairs, both_ways, own_cross_entropy


def info_nce(pairs: Pairs, *, batch: GlobalBatch = HERE) -> jax.Array:
    """1/2 [CE(s x y') + CE(s y x')], the mean over all N pairs: f32[]; from bf16 rows, too, in f32.

    Embeddings of all devices are gathered, and the gradient flows back through the gathering, so it equals that of one
    large batch.
    """
    return mean(both_ways(own_cross_entropy, pairs, batch=batch), batch.axes)
