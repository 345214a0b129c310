"""TinyCLIP's automatic inheritance: the teacher's own weights learn under masks what can go. Wu et al. 2023, section 3.3.

    clip-jax embed --model TEACHER --data configs/mine.py --store both/teacher [--views 10]
    clip-jax train --config configs/distill_tinyclip_masks.py:both --workdir runs/masked
    clip-jax shrink runs/masked both/student
    clip-jax train --config configs/distill_tinyclip.py:both --workdir runs/tinyclip

The folder `both` holds the store and, once it has been cut out, the student, which the last line trains on. Of each
tower's parameters 0, 25, 50 and 75% go, each for a quarter of the run: --config.masks.stages.
"""

from ml_collections import ConfigDict

from configs.base import part
from configs.distill import STORE, taught
from configs.distill_tinyclip import get_config as tinyclip


def get_config(teacher: str = STORE) -> ConfigDict:
    """`teacher`: see configs/distill.py."""
    config, (_, known) = tinyclip(teacher), taught(teacher)
    config.model, config.init_from = part(known.config.model), known.weights
    config.inherit.model = ""
    config.masks.image = config.masks.text = True
    return config
