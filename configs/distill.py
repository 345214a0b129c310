"""The student of the distill_*.py, without a teacher: what each of them starts from, and what it has to beat.

    clip-jax embed --model TEACHER --data configs/mine.py --store STORE [--views 10]
    clip-jax train --config configs/distill.py:STORE --workdir runs/alone

In place of STORE, all of them take the teacher's weights, too, as clip_jax.load does: they run live on each batch. Or a
folder of such folders, for several teachers; the first store by name counts where only one can. From it come the data, the
augmentation (a store's views; none, where it holds plain images), and half its width and layers the student. A teacher
that is a run gives its steps, batches and evaluations; else it is 32 epochs of batches of 1024, and no evaluation.
In small: `make quickstart`'s run and store are such a teacher. Another student: --config.model.vision_cfg.width=192, ...
"""

from ml_collections import ConfigDict

from clip_jax.interop.recognize import config_of
from clip_jax.students import Known, first_weights, half, known_teachers
from clip_jax.teachers import StoreTeacher
from configs.base import part

STORE = "runs/quickstart-store"


def get_config(teacher: str = STORE) -> ConfigDict:
    """The student alone, by CLIP-KD's optimizer settings. `teacher`: a store, weights, or a folder of these."""
    known = first_of(teacher)
    config = part(known.config)
    config.model = part(half(known.config.model))
    if begun := first_weights(teacher):
        config.model, config.init_from = part(config_of(begun)), begun
    config.optim.lr = 1e-3
    config.optim.weight_decay = 0.1
    config.optim.warmup_steps = config.get_ref("steps") // 10  # of the steps that are finally set
    return config


def taught(teacher: str) -> ConfigDict:
    """The same with its teachers named; what is learned of them is for a recipe to say."""
    config = get_config(teacher)
    config.teachers = {name: part(known.teacher) for name, known in known_teachers(teacher).items()}
    return config


def first_of(teacher: str) -> Known:
    """The teacher by which the student is made: the first store, else the first of all."""
    found = list(known_teachers(teacher).values())
    return next((known for known in found if isinstance(known.teacher, StoreTeacher)), found[0])


def ramp(config: ConfigDict, start: float, end: float, *, first: float, last: float) -> ConfigDict:
    """A clip_jax.objectives.Ramp. first, last: where it begins and ends, as shares of the steps that are finally set."""
    steps = config.get_ref("steps")
    begins, ends = (steps * round(1000 * share) // 1000 for share in (first, last))
    return ConfigDict({"start": start, "end": end, "first": begins, "last": ends + 1})
