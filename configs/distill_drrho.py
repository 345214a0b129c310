"""A reference model says how hard each pair is, and the student learns most where it is behind: DRRho-CLIP, Wei et al. 2025.
It takes the place of the contrastive loss, and the reference may be weaker than the student.

    clip-jax embed --model REFERENCE --data configs/mine.py --store STORE [--views 10]
    clip-jax train --config configs/distill_drrho.py:STORE --workdir runs/drrho

With distillation, as the paper's best: --config.objective.weights.crd=1. A student as large as its reference, or another:
--config.model.vision_cfg.width=768, ...
"""

from ml_collections import ConfigDict

from configs.distill import STORE, taught


def get_config(teacher: str = STORE) -> ConfigDict:
    """`teacher`: the reference; see configs/distill.py."""
    config, _ = taught(teacher)
    config.objective.weights = {"drrho": 1.0, "crd": 0.0}
    config.objective.options.drrho_temperature = 0.01
    return config
