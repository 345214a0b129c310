"""The two towers of a model as compiled functions over a mesh."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from clip_jax.models.clip import CLIPConfig, bind
from clip_jax.sharding import MODEL, replicated

Tower = Callable[[Any, jax.Array], jax.Array]


@functools.cache
def tower(config: CLIPConfig, mesh: Mesh, name: Literal["image", "text"]) -> Tower:
    """(params, batch [B@(replica, data, fsdp), ...]) -> unit-norm f32[B, E] on every device, jitted.

    Kept, so that a model evaluated every few hundred steps, or loaded twice, compiles once. With dtype "float32" the
    products are in float32 on every device; GPUs and TPUs would by default round their factors to fewer bits.
    """

    def run(params: Any, batch: jax.Array) -> jax.Array:
        model = bind(config, params)
        exact = jax.default_matmul_precision("highest") if config.dtype == "float32" else contextlib.nullcontext()
        # Constraints of a mesh move last bits with the number of devices, which stored embeddings must not depend on.
        cut = jax.sharding.use_abstract_mesh(mesh.abstract_mesh) if mesh.shape[MODEL] > 1 else contextlib.nullcontext()
        with exact, cut:
            return model.encode_image(batch) if name == "image" else model.encode_text(batch)

    return jax.jit(run, out_shardings=replicated(mesh))
