"""`clip_jax.load`: from wherever weights lie to a model that encodes."""

import dataclasses
from pathlib import Path
from typing import Literal

import jax

from clip_jax.evals.embed import Encoder
from clip_jax.interop.recognize import open_weights
from clip_jax.model import Model
from clip_jax.runs import Weights
from clip_jax.sharding import MeshConfig, make_mesh, replicated


def load(
    source: str | Path,
    *,
    weights: Weights = "auto",
    model: str = "",
    tokenizer: str | Path = "",
    dtype: Literal["float32", "bfloat16"] = "float32",
    batch_size: int = 64,
) -> Model:
    """The model in a run folder, in a file or folder of OpenAI, open_clip, Hugging Face or SigLIP, or `hf-hub:org/repo`.

    weights: of a run, its average where it has one ("auto", "ema") or "raw". model: an open_clip name, for a file that does
    not say its activation. tokenizer: a tokenizer.json, for weights that come without theirs. dtype: of activations and
    products. batch_size: inputs encoded at once, over all devices. Raises FileNotFoundError, or ValueError that says what
    was found and what is needed.
    """
    opened = open_weights(source, weights=weights, model=model, tokenizer=tokenizer)
    return Model(opened.config, opened.params, about=opened.said, dtype=dtype, batch_size=batch_size)


def load_encoder(source: str | Path) -> Encoder:
    """The same model as evaluations take it, over all devices of all processes, which must all call this; in float32."""
    opened = open_weights(source)
    mesh = make_mesh(MeshConfig())
    params = jax.device_put(opened.params, replicated(mesh))
    return Encoder(dataclasses.replace(opened.config, dtype="float32"), params, mesh)
