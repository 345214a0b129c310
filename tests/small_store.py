"""A teacher store small enough for tests, as `clip-jax embed` would write it."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from clip_jax.data.images import Augmentation
from clip_jax.data.source import Source
from clip_jax.data.sources import GlyphsConfig, SourceConfig, open_source
from clip_jax.data.teacher_items import ShardedSamples
from clip_jax.data.teacher_manifest import Manifest
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
    embed(folder, model, open_source(source), source, augmentation, config)
    return folder


def embed(
    folder: Path,
    model: Model,
    source: Source,
    settings: SourceConfig,
    augmentation: Augmentation | None,
    config: EmbedConfig,
) -> Manifest:
    """The store of a source that `settings` may describe."""
    samples = ShardedSamples(source, config.rows_per_shard)
    plan = plan_store(model, "teacher", samples, settings, augmentation, config)
    with contextlib.closing(StoreWriting(folder, samples, plan, config.max_bad_share)) as store:
        if store.finished:
            return store.finished
        extract(model, store)
        return store.finish()
