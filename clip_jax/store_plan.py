"""What a teacher store is to be before its first shard: the manifest, from a model, a source and a few choices."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Literal

import numpy as np

from clip_jax import tree
from clip_jax.data.images import Augmentation
from clip_jax.data.sources import SourceConfig
from clip_jax.data.teacher_items import ShardedSamples
from clip_jax.data.teacher_manifest import (
    Manifest,
    SourceInfo,
    StoredViews,
    TeacherInfo,
    differences,
    read_begun,
)
from clip_jax.model import Model
from clip_jax.models.layers import Running
from clip_jax.plain import to_dict
from clip_jax.tokenizer import byte_pairs
from clip_jax.tokenizer_file import TextSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """views: augmented images stored of a sample; 0 stores the image as evaluation sees it. captions: whether all captions
    are embedded. dtype: of the teacher's activations and of what is stored. rows_per_shard: samples a file. seed: of the
    views. batch_size: images, and captions, that one device takes at once; None where nothing is computed. max_bad_share:
    of samples that cannot be read.
    """

    views: int = 0
    captions: bool = True
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    rows_per_shard: int = 8192
    seed: int = 0
    batch_size: int | None = 128
    max_bad_share: float = 0.01

    def __post_init__(self):
        for name, least in (("views", 0), ("rows_per_shard", 1), ("seed", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}")
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"max_bad_share is {self.max_bad_share}; a share is in [0, 1]")


def plan_store(
    model: Model,
    name: str,
    samples: ShardedSamples,
    source: SourceConfig,
    augmentation: Augmentation | None,
    config: EmbedConfig,
) -> Manifest:
    """The manifest without files. name: by which the model was loaded. source: the config that `samples` are of.

    Raises ValueError for views of data that are not augmented.
    """
    if config.views and augmentation is None:
        raise ValueError(
            f"{config.views} views: the data's config augments no images (read.augmentation is None); use 0"
        )
    settings = to_dict(dataclasses.replace(model.config, running=Running()))
    if file := settings["text_cfg"]["tokenizer"]:
        settings["text_cfg"]["tokenizer"] = Path(file).name  # wherever it lies: it is hashed
    views = None
    if config.views and augmentation is not None:
        views = StoredViews(count=config.views, seed=config.seed, augmentation=augmentation)
    return Manifest(
        teacher=TeacherInfo(
            name=name,
            weights_hash=tree.weights_hash(model.params),
            embed_dim=model.embed_dim,
            logit_scale=float(np.asarray(model.params["logit_scale"])),
            logit_bias=model.logit_bias or 0.0,
            model=settings,
        ),
        tokenizer=tokenizer_hash(model.config.text_cfg),
        preprocessing={"image_size": model.image_size} | to_dict(model.config.preprocess_cfg),
        dtype=config.dtype,
        source=SourceInfo(name=samples.source.name, samples=len(samples), config=to_dict(source)),
        views=views,
        captions=config.captions,
        rows_per_shard=config.rows_per_shard,
        batch_size=config.batch_size,
    )


def check_plan(folder: Path, plan: Manifest) -> Manifest | None:
    """The manifest of the finished store in `folder`; None where there is nothing, or a part of the same store.

    Where the teacher lies may differ, as long as its weights do not, and, where nothing is left to compute, the batch size.
    Raises ValueError that says in what the store that
    was begun there differs from `plan`.
    """
    # Before another process of this job writes its first file.
    found = sorted(path.name for path in folder.glob("[!.]*"))
    began = read_begun(folder)
    if began is None:
        if found:
            raise ValueError(f"{folder} holds {found[0]}, and is no store that was begun; choose another folder")
        return None
    whole = began.index is not None and all((folder / each.file).is_file() for each in (*began.shards, began.index))
    here = dataclasses.replace(plan, teacher=dataclasses.replace(plan.teacher, name=began.teacher.name))
    if whole:
        here = dataclasses.replace(here, batch_size=began.batch_size)
    if wrong := differences(began, here):
        raise ValueError(
            f"{folder} was begun with other settings than now; then and now it has\n  " + "\n  ".join(wrong) + "\n"
            "Give the same again, or choose another folder"
        )
    return began if whole else None


def tokenizer_hash(settings: TextSettings) -> str:
    """32 hex digits of all that makes a text's ids: blake2b over the tokenizer.json (CLIP's merges, where there is none)
    and the settings."""
    state = hashlib.blake2b(digest_size=16)
    if settings.tokenizer:
        state.update(Path(settings.tokenizer).expanduser().read_bytes())
    else:
        state.update(json.dumps(byte_pairs()[1]).encode())
    chosen = (settings.context_length, settings.vocab_size, settings.pad_id, settings.tokenizer_clean)
    state.update(json.dumps([bool(settings.tokenizer), *chosen]).encode())
    return state.hexdigest()
