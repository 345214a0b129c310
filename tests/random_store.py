"""A teacher's store without a teacher's work: the real writer, random unit rows."""

import dataclasses
from pathlib import Path

import numpy as np

from clip_jax.data.sources import SourceConfig, open_source
from clip_jax.data.teacher_index import finish_store
from clip_jax.data.teacher_manifest import Manifest, SourceInfo, StoredViews, TeacherInfo
from clip_jax.data.teacher_shards import ShardRows, write_shard
from clip_jax.models.clip import CLIPConfig
from clip_jax.plain import to_dict
from tests.handmade_store import unit


def write_random_store(
    folder: Path,
    weights: Path,
    config: CLIPConfig,
    source: SourceConfig,
    *,
    views: StoredViews | None = None,
    captions: bool = True,
    weights_hash: str = "ab",
) -> Path:
    """Of every sample of `source`, as if the model in `weights` had embedded it; weights_hash: theirs, where it matters."""
    opened, dim, rng = open_source(source), config.embed_dim, np.random.default_rng(len(folder.name))
    manifest = Manifest(
        teacher=TeacherInfo(
            name=str(weights), weights_hash=weights_hash, embed_dim=dim, logit_scale=3.0, model=to_dict(config)
        ),
        tokenizer="cd",
        preprocessing={},
        source=SourceInfo(name=opened.name, samples=len(opened), config=to_dict(source)),
        views=views,
        captions=captions,
        rows_per_shard=len(opened),
    )
    uids = [opened.uid(index) for index in range(len(opened))]
    rows = ShardRows(uid=np.array(uids, np.uint64), image=unit(rng, len(uids), manifest.image_views, dim))
    if views is not None:
        drawn = [[views.draw(uid, n, 16, 16).to_row() for n in range(views.count)] for uid in uids]
        rows = dataclasses.replace(rows, view=np.array(drawn))
    if captions:
        samples = (opened[index] for index in range(len(opened)))
        texts = [(*sample.captions, *sample.synthetic) for sample in samples]
        rows = dataclasses.replace(rows, captions=texts, text=unit(rng, sum(map(len, texts)), dim))
    folder.mkdir(parents=True)
    finish_store(folder, manifest, [write_shard(folder, 0, rows, dtype=manifest.dtype)])
    return folder
