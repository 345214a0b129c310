"""Class centroids of a teacher's embeddings as teachers: CLIP-Embed-KD, for labelled images. Nair 2024.

    clip-jax embed --model TEACHER --data configs/digits.py --store STORE
    clip-jax train --config configs/distill_embed_kd.py:STORE --workdir runs/embed_kd

Any source with classes will do in place of the digits. The image tower learns to lie next to its class's centroid (a
projection of it, as published) and to name the class; texts have no part in it. The full-teacher variant compares with each
image's own embedding: --config.objective.weights.centroid=0 --config.objective.weights.full_teacher=0.5. Published for a
student of 32 pixels, patch 4, width 256, 6 layers, 8 heads.
"""

from ml_collections import ConfigDict

from configs.distill import STORE, taught

EPOCHS, BATCH = 200, 64


def get_config(teacher: str = STORE) -> ConfigDict:
    """`teacher`: a store of labelled images; see configs/distill.py."""
    config, known = taught(teacher)
    config.objective.weights = {"centroid": 0.5, "classification": 1.0, "full_teacher": 0.0}
    config.batch_size = BATCH
    config.steps = max(1, EPOCHS * known.samples // BATCH)
    config.optim.lr = 1e-4
    config.optim.freeze = ("text/.*", "logit_.*")
    config.evals = {}  # those of the teacher's run ask for texts
    config.checkpoint.best = ""
    return config
