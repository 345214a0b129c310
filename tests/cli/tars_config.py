"""The small run on tars: --config tests/cli/tars_config.py:URLS."""

from ml_collections import ConfigDict

from clip_jax.data.webdataset import WebDatasetConfig
from configs.base import part
from tests.small_config import get_config as small


def get_config(urls: str) -> ConfigDict:
    """12 steps of 16 pairs, without evaluations."""
    config = small()
    config.source = part(WebDatasetConfig(urls=urls, name="test"))
    config.evals = {}
    config.eval_every = 0
    return config
