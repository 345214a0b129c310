"""A student cut out of its teacher, which then learns the teacher's affinities: TinyCLIP. Wu et al. 2023.

    clip-jax embed --model TEACHER --data configs/mine.py --store STORE [--views 10]
    clip-jax train --config configs/distill_tinyclip.py:STORE --workdir runs/tinyclip

First weights: every r-th layer (0, r, 2r, ...; r = layers of the teacher // of the student), the first channels, heads and units.
Other choices are "--config.inherit.image.layers=(0,1,2,3,4,5)" and the like, in quotes for the shell. The store names the
teacher's weights; where they have moved, --config.inherit.model=TEACHER says so.

Automatic inheritance lets masks choose instead: configs/distill_tinyclip_masks.py is the first of its two stages.
"""

from ml_collections import ConfigDict

from configs.distill import STORE, taught


def get_config(teacher: str = STORE) -> ConfigDict:
    """`teacher`: see configs/distill.py; a folder with a `student` in it trains that one on."""
    config, known = taught(teacher)
    config.objective.weights = {"affinity": 1.0}
    config.objective.options.affinity_scale = 50.0
    if not config.init_from:
        config.inherit.model = known.weights
    config.optim.lr = 1e-4
    config.optim.weight_decay = 0.2
    config.optim.clip_norm = 5.0
    return config
