"""The two towers of a model as compiled functions over a mesh."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from clip_jax.models.clip import CLIPConfig, bind
from clip_jax.sharding import MODEL, replicated

Tower = Callable[[Any, jax.Array], jax.Array]
Output = Literal["image", "text", "penultimate"]


@functools.cache
def tower(config: CLIPConfig, mesh: Mesh, name: Output) -> Tower:
    """(params, batch [B@(replica, data, fsdp), ...]) -> unit-norm f32[B, E] on every device, jitted; for "penultimate" the
    features of images that a linear probe is trained on, f32[B, F], without a norm.

    Kept, so that a model evaluated every few hundred steps, or loaded twice, compiles once. With dtype "float32" the
    products are in float32 on every device; GPUs and TPUs would by default round their factors to fewer bits.
    """

    def run(params: Any, batch: jax.Array) -> jax.Array:
        model = bind(config, params)
        exact = jax.default_matmul_precision("highest") if config.dtype == "float32" else contextlib.nullcontext()
        # Constraints of a mesh move last bits with the number of devices, which stored embeddings must not depend on.
        cut = jax.sharding.use_abstract_mesh(mesh.abstract_mesh) if mesh.shape[MODEL] > 1 else contextlib.nullcontext()
        with exact, cut:
            match name:
                case "image":
                    return model.encode_image(batch)
                case "text":
                    return model.encode_text(batch)
                case "penultimate":
                    return model.penultimate_features(batch).astype(jnp.float32)

    return jax.jit(run, out_shardings=replicated(mesh))
