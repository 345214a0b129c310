"""A teacher store out of embeddings in clip-retrieval's layout: the teacher named, but not run."""

import dataclasses

import jax

from clip_jax.data.clip_retrieval import ClipRetrieval
from clip_jax.model import Model
from clip_jax.store_plan import EmbedConfig
from clip_jax.store_writing import StoreWriting


def imported_config(config: EmbedConfig, found: ClipRetrieval, teacher: Model, *, captions_wanted: bool) -> EmbedConfig:
    """`config` as far as the embeddings have it: without captions where there are no texts, and of no batch size.

    captions_wanted: whether config.captions was asked for. Raises ValueError for an embedding size other than the teacher's,
    for views, and for captions that are wanted and not there.
    """
    if found.embed_dim != teacher.embed_dim:
        raise ValueError(
            f"the embeddings to import have {found.embed_dim} numbers, those of {teacher.about} {teacher.embed_dim}; give "
            "the model that they are of"
        )
    if config.views:
        raise ValueError(f"{config.views} views: clip-retrieval's embeddings are of whole images; use --views 0")
    if config.captions and captions_wanted and not found.has_text:
        raise ValueError("the embeddings to import are of images only (no text_emb); use --nocaptions")
    return dataclasses.replace(config, captions=config.captions and found.has_text, batch_size=None)


def import_embeddings(found: ClipRetrieval, store: StoreWriting) -> None:
    """Writes what is missing of the store; process 0 does it all, for nothing is computed.

    Raises RuntimeError where too many samples have no embedding.
    """
    if jax.process_index() > 0:
        return
    missing = set(store.missing)
    for shard, rows in enumerate(found.shards(store.plan.rows_per_shard)):
        if shard in missing:
            store.write(shard, rows if store.plan.captions else dataclasses.replace(rows, captions=None, text=None))
