"""A teacher store small enough for tests, as `clip-jax embed` would write it."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from clip_jax.data.images import Augmentation
from clip_jax.data.sources import GlyphsConfig, SourceConfig, open_source
from clip_jax.data.teacher_items import ShardedSamples
from clip_jax.extract import extract
from clip_jax.model import Model
from clip_jax.store_plan import EmbedConfig, plan_store
from clip_jax.store_writing import StoreWriting

SAMPLES = GlyphsConfig(split="validation", limit=40, size=16)
SMALL_STORE = EmbedConfig(rows_per_shard=16, batch_size=8)


def write_store(
    folder: Path,
    model: Model,
    source: SourceConfig = SAMPLES,
    *,
    augmentation: Augmentation | None = None,
    **options: Any,
) -> Path:
    """Three shards of forty drawings and their captions in bf16, unless `options` of EmbedConfig say otherwise."""
    config = dataclasses.replace(SMALL_STORE, **options)
    samples = ShardedSamples(open_source(source), config.rows_per_shard)
    plan = plan_store(model, "teacher", samples, source, augmentation, config)
    with contextlib.closing(StoreWriting(folder, samples, plan, config.max_bad_share)) as store:
        extract(model, store)
        store.finish()
    return folder
