"""Image-text pairs in WebDataset tars, on few cores: clip-jax train --config configs/pairs.py:FOLDER --workdir runs/pairs.

FOLDER holds train-*.tar and val-*.tar; each sample an image, a .txt caption, and maybe more captions in its .json.
"""

from ml_collections import ConfigDict

from clip_jax.data.webdataset import WebDatasetConfig
from clip_jax.evals.retrieval import RetrievalConfig
from clip_jax.evals.showcase import ShowcaseConfig
from configs.base import get_config as base
from configs.base import part

QUERIES = ("a red heart", "a smiling face", "a green apple", "a dog", "a house", "a flag", "a yellow bird", "a car")


def get_config(folder: str = "../shared/data/pairs") -> ConfigDict:
    """`folder`: where the tars are."""
    config = base("tiny")
    config.model.running.scan = False  # larger program, faster on CPU
    config.steps = 900
    config.batch_size = 256
    config.source = part(WebDatasetConfig(urls=f"{folder}/train-*.tar", name="pairs"))
    config.read.augmentation.scale = (0.5, 1.0)
    config.read.augmentation.flip = 0.5
    config.read.workers = 1
    config.optim.lr = 1e-3
    config.optim.warmup_steps = 100
    config.optim.weight_decay = 0.2
    config.optim.clip_norm = 1.0
    config.optim.ema_decay = 0.99
    config.checkpoint.every = 150
    config.eval_every = 150
    validation = WebDatasetConfig(urls=f"{folder}/val-*.tar", name="pairs-val")
    config.evals = {
        "validation": part(RetrievalConfig(source=validation)),
        "gallery": part(ShowcaseConfig(source=validation, queries=QUERIES)),
    }
    return config
