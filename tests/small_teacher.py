"""A teacher small enough for tests, as a folder that `clip_jax.load` opens."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

from clip_jax import tree
from clip_jax.interop import folder
from clip_jax.models.clip import CLIPConfig, init_params
from clip_jax.tokenizer import Tokenizer
from tests.conftest import SMALL

TEACHER = dataclasses.replace(
    SMALL, text_cfg=dataclasses.replace(SMALL.text_cfg, context_length=12, vocab_size=Tokenizer.vocab_size)
)


def write_teacher(path: Path, seed: int = 0, config: CLIPConfig = TEACHER) -> Path:
    """Two layers a tower, 16 pixels, 12 tokens; freshly initialised from `seed`."""
    path.mkdir()
    params = tree.leaves_by_path(jax.jit(lambda key: init_params(config, key))(jax.random.key(seed)))
    save_file({name: np.ascontiguousarray(leaf) for name, leaf in params.items()}, path / folder.WEIGHTS)
    folder.write_settings(path, config, layout="clip_jax", origin={})
    return path
