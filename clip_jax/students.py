"""The student that a teacher suggests: on the teacher's data, trained as the teacher was, of half its size."""

import dataclasses
from pathlib import Path

from clip_jax.data.sources import MixtureConfig, SourceConfig
from clip_jax.data.teacher_manifest import MANIFEST, UNFINISHED, Manifest, read_manifest
from clip_jax.experiment import TrainConfig
from clip_jax.interop.recognize import config_of
from clip_jax.models.clip import CLIPConfig
from clip_jax.models.resnet import ResNetConfig
from clip_jax.models.vit import VisionConfig
from clip_jax.plain import from_dict
from clip_jax.run_folder import CHECKPOINTS, CONFIG
from clip_jax.runs import read_config
from clip_jax.teachers import LiveTeacher, StoreTeacher

STUDENT = "student"  # names, beside teachers, weights to train on

# What an experiment takes over from the run that made its teacher.
_SHARED = ("steps", "batch_size", "source", "read", "evals", "eval_every", "log_every", "checkpoint")
_EPOCHS = 32  # of CLIP and CLIP-KD


@dataclasses.dataclass(frozen=True, kw_only=True)
class Known:
    """A teacher, and what it suggests.

    weights: as clip_jax.load takes them. teacher: how it teaches. config: an experiment on its data, with the teacher's
    own model, and without a teacher. samples: of the data, 0 where that is not known.
    """

    weights: str
    teacher: StoreTeacher | LiveTeacher
    config: TrainConfig
    samples: int = 0


def known_teachers(where: str) -> dict[str, Known]:
    """By name, what `where` names: a store, weights as clip_jax.load takes them, or a folder of nothing but such folders;
    of these the one called "student" is none of the teachers.

    Raises ValueError or FileNotFoundError for anything else.
    """
    inside = _folders(where)
    names = [name for name in inside if name != STUDENT] if inside else []
    return {name: known(inside[name]) for name in names} if names else {"teacher": known(where)}


def first_weights(where: str) -> str:
    """What a student among the folders of `where` would be trained on from, "" for none."""
    return _folders(where).get(STUDENT, "")


def known(where: str) -> Known:
    """Of one teacher: the data and views of a store; of a run its data, steps, batches and evaluations.

    Raises ValueError or FileNotFoundError for what is neither a store nor weights.
    """
    folder = Path(where).expanduser()
    stored = any((folder / name).exists() for name in (MANIFEST, UNFINISHED))
    if not (stored or folder.exists() or where.startswith("hf-hub:")):
        raise FileNotFoundError(
            f"{where} does not exist; give a teacher's store (clip-jax embed writes one), or its weights as clip_jax.load "
            "takes them"
        )
    manifest = read_manifest(folder) if stored else None
    weights = manifest.teacher.name if manifest else where
    config = _experiment(weights, manifest)
    if manifest is None:
        return Known(weights=weights, teacher=LiveTeacher(model=where), config=config)
    augmentation = manifest.views.augmentation if manifest.views else None
    config = dataclasses.replace(
        config,
        source=from_dict(SourceConfig, manifest.source.config, f"{folder / MANIFEST}: source.config"),
        read=dataclasses.replace(config.read, augmentation=augmentation),
    )
    return Known(weights=weights, teacher=StoreTeacher(path=where), config=config, samples=manifest.source.samples)


def half(config: CLIPConfig) -> CLIPConfig:
    """Half the width and half the layers in both towers, with heads of the same size where these divide the width.

    The embedding keeps its size, unless it is a tower's own channels (SigLIP), which are halved.
    """
    image, text = config.vision_cfg, config.text_cfg
    tied = text.proj_type == "none"
    if isinstance(image, ResNetConfig):
        one, two, three, four = map(_half, image.layers)
        image = dataclasses.replace(image, layers=(one, two, three, four), width=image.width // 2)
    else:
        tied |= image.pool_type == "map"
        image = dataclasses.replace(
            image, layers=_half(image.layers), width=image.width // 2, head_width=_head_width(image)
        )
    heads = text.heads // 2 if text.heads % 2 == 0 else text.heads
    text = dataclasses.replace(text, layers=_half(text.layers), width=text.width // 2, heads=heads)
    embed_dim = config.embed_dim // 2 if tied else config.embed_dim
    return dataclasses.replace(config, embed_dim=embed_dim, vision_cfg=image, text_cfg=text)


def has_synthetic(source: SourceConfig) -> bool:
    """Whether a source has generated captions."""
    if isinstance(source, MixtureConfig):
        return any(has_synthetic(part.source) for part in source.parts)
    return any(name.startswith("synthetic") and bool(value) for name, value in vars(source).items())


def _experiment(weights: str, manifest: Manifest | None) -> TrainConfig:
    """The teacher's run, where there is one, else the library's defaults in bfloat16; without the store's data."""
    path = Path(weights).expanduser()
    run = read_config(path) if (path / CONFIG).is_file() and (path / CHECKPOINTS).is_dir() else None
    model = from_dict(CLIPConfig, manifest.teacher.model, "teacher.model") if manifest else config_of(weights)
    if manifest and model.text_cfg.tokenizer:  # a store names the file, and does not have it
        tokenizer = config_of(weights).text_cfg.tokenizer
        model = dataclasses.replace(model, text_cfg=dataclasses.replace(model.text_cfg, tokenizer=tokenizer))
    if run:
        model = dataclasses.replace(model, dtype=run.model.dtype, running=run.model.running)
        return TrainConfig(model=model, **{name: getattr(run, name) for name in _SHARED})
    config = TrainConfig(model=dataclasses.replace(model, dtype="bfloat16"))
    if manifest is None:
        return config
    return dataclasses.replace(config, steps=max(1, _EPOCHS * manifest.source.samples // config.batch_size))


def _folders(where: str) -> dict[str, str]:
    """Name -> path of what lies in a folder of folders; {} for all else. Names hold no dot, which divides a flag's parts."""
    folder = Path(where).expanduser()
    inside = sorted(folder.glob("[!.]*")) if folder.is_dir() else []
    return {path.name.replace(".", "_"): str(path) for path in inside} if all(map(Path.is_dir, inside)) else {}


def _half(number: int) -> int:
    return -(-number // 2)


def _head_width(image: VisionConfig) -> int:
    return image.head_width if image.width // 2 % image.head_width == 0 else image.head_width // 2
