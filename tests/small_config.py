"""A run of a minute's thousandth part: one of the repo's own configs, as small as it goes. For tests of the loop."""

from ml_collections import ConfigDict

from clip_jax.data.glyphs import GlyphsConfig
from clip_jax.evals.retrieval import RetrievalConfig
from clip_jax.evals.zero_shot import ZeroShotConfig
from clip_jax.models.text import TextConfig
from clip_jax.models.vit import VisionConfig
from configs.base import get_config as base
from configs.base import part


def get_config() -> ConfigDict:
    """12 steps of 16 pairs; every part of the loop runs: average, patch dropout, evaluation, checkpoints."""
    config = base("tiny")
    config.model.embed_dim = 32
    config.model.vision_cfg = part(
        VisionConfig(layers=2, width=32, head_width=16, patch_size=8, image_size=16, patch_dropout=0.25)
    )
    config.model.text_cfg = part(TextConfig(layers=1, width=32, heads=2, context_length=16))
    config.steps = 12
    config.batch_size = 16
    config.source = part(GlyphsConfig(split="train", size=16))
    config.read.workers = 0
    config.optim.warmup_steps = 2
    config.optim.ema_decay = 0.9
    config.checkpoint.every = 4
    config.log_every = 1
    config.eval_every = 6
    config.evals = {
        "val": part(RetrievalConfig(source=GlyphsConfig(split="validation", limit=40, size=16))),
        "digits": part(ZeroShotConfig(limit=40)),
    }
    return config
