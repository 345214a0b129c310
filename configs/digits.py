"""scikit-learn's handwritten digits: the smallest labelled source, for configs/distill_embed_kd.py."""

from ml_collections import ConfigDict

from clip_jax.data.digits import DigitsConfig
from clip_jax.evals.linear_probe import LinearProbeConfig
from clip_jax.evals.zero_shot import ZeroShotConfig
from configs.base import get_config as base
from configs.base import part


def get_config(model: str = "tiny") -> ConfigDict:
    """`model`: an open_clip name."""
    config = base(model)
    config.model.running.scan = False  # larger program, faster on CPU
    config.steps = 500
    config.batch_size = 64
    config.source = part(DigitsConfig())
    config.read.workers = 0
    config.optim.warmup_steps = 50
    config.evals = {
        "digits": part(ZeroShotConfig(source=DigitsConfig(), templates=("a handwritten {}",))),
        "probe": part(LinearProbeConfig(source=DigitsConfig())),
    }
    return config
