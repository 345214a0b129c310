"""The image tower alone, for a phone: half the width, half the layers, under the teacher's own text tower, which is frozen.
PicCollage's search: of ViT-B-32 it makes width 384, 6 layers, 512 outputs, 12.04 million parameters.

    clip-jax embed --model TEACHER --data configs/mine.py --store STORE --nocaptions [--views 10]
    clip-jax train --config configs/distill_piccollage.py:STORE --workdir runs/piccollage

It has as many heads as the teacher, 12; 24 are --config.model.vision_cfg.head_width=16. The loss is not published: cosine
here, L1 or MSE of unit vectors by --config.objective.weights.image_l1=1 (image_mse) and image_cosine=0. Any index of the
teacher's text embeddings stays good. Where the teacher's weights have moved: --config.inherit.model=TEACHER.
"""

from ml_collections import ConfigDict

from configs.base import part
from configs.distill import STORE, taught


def get_config(teacher: str = STORE) -> ConfigDict:
    """`teacher`: see configs/distill.py; its image tower is a ViT with a class token."""
    config, known = taught(teacher)
    whole, config.model.embed_dim = known.config.model, known.config.model.embed_dim
    config.model.text_cfg = part(whole.text_cfg)
    config.model.vision_cfg.head_width = whole.vision_cfg.head_width // 2
    config.inherit.model = known.weights
    config.inherit.image.on = False
    config.optim.freeze = ("text/.*", "logit_.*")
    config.objective.weights = {"image_cosine": 1.0, "image_l1": 0.0, "image_mse": 0.0}
    return config
