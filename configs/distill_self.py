"""No teacher but the student's own average, trusted pair by pair as far as it is sure: confidence-weighted self-distillation.
Our own transfer to CLIP of CSD's idea: features by a Huber loss, similarities by KL, both weighted by the average's
confidence that image and caption belong together.

    clip-jax train --config configs/distill_self.py:RUN --workdir runs/self

RUN gives the data, and half of its model is the student, so that it compares with the other recipes; a store does as well.
Both terms begin when the warm-up ends, and are at their full weight after twice its time.
"""

from ml_collections import ConfigDict

from clip_jax.teachers import AverageTeacher
from configs.base import part
from configs.distill import STORE, ramp
from configs.distill import get_config as alone


def get_config(like: str = STORE) -> ConfigDict:
    """`like`: whose data, and twice whose size; see configs/distill.py."""
    config = alone(like)
    config.teachers = {"average": part(AverageTeacher())}
    config.optim.ema_decay = 0.999
    rising = {name: ramp(config, 0.0, 1.0, first=0.1, last=0.2) for name in ("csd_features", "csd_relations")}
    config.objective.weights = {"info_nce": 1.0, **rising}
    return config
