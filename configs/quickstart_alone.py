"""A student of half the quickstart's width and half its layers, without a teacher: what distillation is compared with."""

from pathlib import Path

from ml_collections import ConfigDict

from clip_jax.cli.configs import to_dataclass
from clip_jax.data.glyphs import GlyphsConfig
from clip_jax.evals.agreement import AgreementConfig
from clip_jax.evals.colors import ColorsConfig
from clip_jax.students import half
from configs.base import part
from configs.quickstart import get_config as quickstart
from configs.quickstart import glyphs


def get_config(teacher: str = "runs/quickstart") -> ConfigDict:
    """`teacher`: the run whose model the student is half of, and compared with."""
    config = quickstart()
    config.model = part(half(to_dataclass(config).model))
    config.model.vision_cfg.head_width, config.model.text_cfg.heads = 16, 4  # as many heads as the teacher's
    config.source = glyphs(variants=1)
    config.steps = 400
    config.checkpoint.every = 200
    config.eval_every = 0
    if Path(teacher).exists():
        gallery = GlyphsConfig(split="designers", limit=500)
        config.evals.agreement = part(AgreementConfig(source=gallery, teacher=teacher))
        config.evals.colors = part(ColorsConfig(source=gallery, teacher=teacher))
    return config
