"""Several teachers at once, each of its own size, with its own temperature and weight.

    clip-jax embed --model A --data configs/mine.py --store several/a
    ln -s "$PWD/runs/b" several/b
    clip-jax train --config configs/distill_ensemble.py:several --workdir runs/ensemble

Each folder in `several` is a teacher: a store, or weights that run live (here the run b). They weigh the same, and each has a
projection of its own where its size is another: --config.teachers.a.weight=0.7 --config.teachers.a.scale=60 change one. Every
loss is logged of each teacher, too. Stores must hold the same views, or all of them plain images.
"""

from ml_collections import ConfigDict

from configs.distill import STORE, taught


def get_config(teachers: str = STORE) -> ConfigDict:
    """`teachers`: a folder of them; see configs/distill.py."""
    config, _ = taught(teachers)
    for teacher in config.teachers.values():
        teacher.weight = 1 / len(config.teachers)
    config.objective.weights = {"info_nce": 1.0, "crd": 1.0, "fd_cosine": 8.0}
    return config
