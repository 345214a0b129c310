"""COCO captions by TFDS, which prepares them once: tfds build coco_captions --file_format=array_record."""

from ml_collections import ConfigDict

from clip_jax.data.tfds import TfdsConfig
from clip_jax.evals.retrieval import RetrievalConfig
from configs.base import get_config as base
from configs.base import part


def get_config(model: str = "ViT-S-16") -> ConfigDict:
    """`model`: an open_clip name. A small set for CLIP: augmentation and decay are strong."""
    config = base(model)
    config.model.dtype = "bfloat16"
    config.model.running.remat = "block"
    config.steps = 20_000
    config.batch_size = 1024
    config.source = part(TfdsConfig(name="coco_captions", split="train+restval"))
    config.read.augmentation.scale = (0.4, 1.0)
    config.read.augmentation.flip = 0.5
    config.read.workers = 8
    config.optim.weight_decay = 0.5
    config.optim.ema_decay = 0.9995
    config.checkpoint.best = "karpathy_test/text_to_image_r1"
    config.eval_every = 1000
    config.evals = {
        "karpathy_test": part(RetrievalConfig(source=TfdsConfig(name="coco_captions", split="test"), exact=True))
    }
    return config
