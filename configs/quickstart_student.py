"""The same student with the quickstart's teacher, whose embeddings were stored once."""

from ml_collections import ConfigDict

from clip_jax.teachers import StoreTeacher
from configs.base import part
from configs.quickstart_alone import get_config as alone


def get_config(teacher: str = "runs/quickstart") -> ConfigDict:
    """`teacher`: a run; its store is beside it, with -store at the end of its name."""
    config = alone(teacher)
    config.teachers = {"teacher": part(StoreTeacher(path=f"{teacher}-store", any_view=True))}
    config.objective.weights = {"info_nce": 1.0, "crd": 1.0, "fd_cosine": 8.0, "icl": 1.0}
    return config
