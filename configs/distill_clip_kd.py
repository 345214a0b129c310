"""CLIP-KD's headline mix: the pairs, the teacher's similarities (CRD), its features (FD), and contrast against its
embeddings (ICL). Yang et al. 2024, "CLIP-KD: An Empirical Study of CLIP Model Distillation".

    clip-jax embed --model TEACHER --data configs/mine.py --store STORE [--views 10]
    clip-jax train --config configs/distill_clip_kd.py:STORE --workdir runs/clip_kd

FD's 2000 is for embeddings of 512 numbers and about 400,000 steps; the same without the size is fd_cosine at 7.8
(--config.objective.weights.fd=0 --config.objective.weights.fd_cosine=7.8).
"""

from ml_collections import ConfigDict

from configs.distill import STORE, taught


def get_config(teacher: str = STORE) -> ConfigDict:
    """`teacher`: see configs/distill.py."""
    config, _ = taught(teacher)
    config.objective.weights = {"info_nce": 1.0, "crd": 1.0, "fd": 2000.0, "fd_cosine": 0.0, "icl": 1.0}
    config.optim.warmup_steps = config.get_ref("steps") // 40  # 10,000 of 402,000
    return config
