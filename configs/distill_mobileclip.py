"""Dataset reinforcement: similarities averaged over teachers, on views and captions that were stored once. MobileCLIP, Vasu et
al. 2024; MobileCLIP2, Faghri et al. 2025.

    clip-jax embed --model A --data configs/mine.py --store both/a --views 10
    clip-jax embed --model B --data configs/mine.py --store both/b --views 10
    clip-jax train --config configs/distill_mobileclip.py:both --workdir runs/mobileclip

One store will do, too. Where the source has generated captions, they are a second problem beside the real ones, and its losses
are added. The published weights: no base loss for 12 million samples, as here; 0.25 of it and 0.75 of
reinforcement for a billion. A teacher's scale is its own, or --config.teachers.a.scale=70 (MobileCLIP2: 70 and 60).
"""

from ml_collections import ConfigDict

from clip_jax.students import has_synthetic
from configs.distill import STORE, taught


def get_config(teacher: str = STORE) -> ConfigDict:
    """`teacher`: see configs/distill.py."""
    config, known = taught(teacher)
    weights = {"info_nce": 0.0, "reinforcement": 1.0}
    if has_synthetic(known.config.source):
        weights |= {f"{name}_synthetic": weight for name, weight in weights.items()}
    config.objective.weights = weights
    return config
