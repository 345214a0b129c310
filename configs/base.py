"""What every experiment starts from: a model by name, and the library's own defaults. Others are a short diff of it."""

from typing import Any

from ml_collections import ConfigDict

from clip_jax.cli.configs import to_config_dict
from clip_jax.experiment import TrainConfig
from clip_jax.models.presets import preset


def get_config(model: str = "ViT-B-32") -> ConfigDict:
    """OpenAI's recipe for `model`, an open_clip name."""
    return to_config_dict(TrainConfig(model=preset(model)))


def part(config: Any) -> ConfigDict:
    """A source, an evaluation or any other dataclass of the library, as a part of a config."""
    return to_config_dict(config)
