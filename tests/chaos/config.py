"""The run that is killed: small_config's, longer, over two epochs of a few samples, with a checkpoint each five steps."""

from ml_collections import ConfigDict

from clip_jax.data.glyphs import GlyphsConfig
from configs.base import part
from tests.small_config import get_config as small


def get_config() -> ConfigDict:
    """40 steps of 16 pairs."""
    config = small()
    config.steps = 40
    config.source = part(GlyphsConfig(split="train", size=16))
    config.checkpoint.every = 5
    config.eval_every = 10
    return config
