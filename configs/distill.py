"""The student of the distill_*.py, without a teacher: what each of them starts from, and what it has to beat.

    clip-jax embed --model TEACHER --data configs/mine.py --store STORE [--views 10]
    clip-jax train --config configs/distill.py:STORE --workdir runs/alone

In place of STORE, all of them take the teacher's weights, too, as clip_jax.load does: they run live on each batch. Or a
folder of such folders, for several teachers; the first store by name counts where only one can. From it come the data, the
augmentation (a store's views; none, where it holds plain images), and half its width and layers the student. A teacher
that is a run gives its steps, batches and evaluations; else it is 32 epochs of batches of 1024, and no evaluation.
Weights that are neither run nor store bring no data: it is the embedded drawings, until a config of yours sets `source`.
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
    return _student_of(teacher, _first(known_teachers(teacher)))


def taught(teacher: str) -> tuple[ConfigDict, Known]:
    """The same with its teachers named, and the one by which the student is made; what is learned is for a recipe to say."""
    found = known_teachers(teacher)
    first = _first(found)
    config = _student_of(teacher, first)
    config.teachers = {name: part(known.teacher) for name, known in found.items()}
    return config, first


def _first(found: dict[str, Known]) -> Known:
    """The first store, else the first of all."""
    everyone = list(found.values())
    return next((known for known in everyone if isinstance(known.teacher, StoreTeacher)), everyone[0])


def _student_of(teacher: str, known: Known) -> ConfigDict:
    config = part(known.config)
    config.model = part(half(known.config.model))
    if begun := first_weights(teacher):
        config.model, config.init_from = part(config_of(begun)), begun
    config.optim.lr = 1e-3
    config.optim.weight_decay = 0.1
    config.optim.warmup_steps = config.get_ref("steps") // 10  # of the steps that are finally set
    return config


def ramp(config: ConfigDict, start: float, end: float, *, first: float, last: float) -> ConfigDict:
    """A clip_jax.objectives.Ramp. first, last: where it begins and ends, as shares of the steps that are finally set."""
    steps = config.get_ref("steps")
    begins, ends = (steps * round(1000 * share) // 1000 for share in (first, last))
    return ConfigDict({"start": start, "end": end, "first": begins, "last": ends + 1})
