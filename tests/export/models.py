"""Small models of each kind that is exported, with the parts that have tripped converters."""

import dataclasses
import importlib.util
from typing import Any

import jax
import numpy as np
import pytest

from clip_jax.export.formats import FORMATS
from clip_jax.export.graph import Tower, Wanted
from clip_jax.interop.packing import Precision
from clip_jax.models.clip import CLIPConfig, init_params
from clip_jax.models.resnet import ResNetConfig
from clip_jax.models.text import TextConfig
from clip_jax.models.vit import VisionConfig

_TEXT = TextConfig(layers=2, width=64, heads=2, context_length=16)
CONFIGS = {
    "vit": CLIPConfig(
        embed_dim=32,
        vision_cfg=VisionConfig(layers=2, width=64, head_width=32, patch_size=8, image_size=16),
        text_cfg=_TEXT,
    ),
    "siglip": CLIPConfig(
        embed_dim=64,
        init_logit_bias=-10.0,
        vision_cfg=VisionConfig(layers=1, width=64, head_width=32, patch_size=8, image_size=16, pool_type="map"),
        text_cfg=dataclasses.replace(_TEXT, no_causal_mask=True, pool_type="last", proj_bias=True),
    ),
    "resnet": CLIPConfig(
        embed_dim=32, vision_cfg=ResNetConfig(layers=(1, 1, 1, 1), width=8, image_size=64), text_cfg=_TEXT
    ),
}


def params_of(config: CLIPConfig) -> Any:
    """Drawn, with vectors moved off their even starts, so that no norm and no bias is without effect."""
    rng = np.random.default_rng(0)

    def moved(x: Any) -> np.ndarray:
        x = np.asarray(x, np.float32)
        return x + np.abs(rng.normal(0, 0.1, x.shape)).astype(np.float32) if x.ndim in (1, 2) and x.size < 2000 else x

    drawn = jax.jit(lambda key: init_params(config, key))(jax.random.key(0))
    return jax.tree.map(moved, jax.device_get(drawn))


def wanted(
    config: CLIPConfig,
    params: Any,
    tower: Tower,
    precision: Precision = "f32",
    *,
    preprocess: bool = False,
    batch: int | None = None,
) -> Wanted:
    """A file to be written."""
    return Wanted(config=config, params=params, tower=tower, precision=precision, preprocess=preprocess, batch=batch)


def need(name: str) -> None:
    """Skips a test that no converter is there for."""
    missing = [module for module in FORMATS[name].needs if importlib.util.find_spec(module) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: pip install 'clip_jax[export]'")
