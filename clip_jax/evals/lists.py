"""A model's first results for each query from a gallery, as places in the source, so that two models' lists compare."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.sparse

from clip_jax import ranking
from clip_jax.data.source import Source
from clip_jax.evals.embed import Embedded, Encoder, normal_caption_key
from clip_jax.evals.protocol import chunks, first_captions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Queries:
    """key: of each query, u64[Q], ascending, equal for equal texts. label: the one that makes an image relevant i64[Q], -1 for
    none. text: unit-norm f32[Q, E]."""

    key: np.ndarray
    label: np.ndarray
    text: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lists:
    """One model's results for Q queries over a gallery of `images`.

    key: of each query, u64[Q], ascending. top: of each the first results as indices in the source, i64[Q, k]. right: how
    many of these are relevant, i64[Q]. relevant: how many there are, i64[Q].
    """

    key: np.ndarray
    top: np.ndarray
    right: np.ndarray
    relevant: np.ndarray
    images: int
    unreadable: int


def check_queries(texts: Sequence[str]) -> None:
    """Raises ValueError for an empty text among them."""
    if empty := [text for text in texts if not text.strip()]:
        raise ValueError(f"queries hold {empty[0]!r}; give texts, or no queries for the captions")


def check_gallery(found: Embedded, top: int, source: Source) -> int:
    """Images of the gallery. Raises ValueError for one that is no larger than `top`."""
    images = len(found.image)
    if images <= top:
        raise ValueError(
            f"source {source.name!r} gave {images} readable images; the first {top} of so few say nothing: use a "
            "larger gallery, or a smaller top"
        )
    return images


def queries_of(found: Embedded, encoder: Encoder, texts: Sequence[str], source: Source) -> Queries:
    """The texts, or where there are none the first caption of each image; equal ones once.

    Raises ValueError for a source without captions, where these are needed.
    """
    if texts:
        keys, labels = np.array([normal_caption_key(text) for text in texts], np.uint64), np.full(len(texts), -1)
        embeddings = encoder.texts(texts)
    else:
        first = first_captions(found)
        keys, labels, embeddings = found.key[first], found.label[found.owner[first]], found.caption[first]
    if not len(keys):
        raise ValueError(f"source {source.name!r} gave no readable image with a caption; give `queries`")
    key, rows = np.unique(keys, return_index=True)
    return Queries(key=key, label=labels[rows], text=embeddings[rows])


def lists_of(found: Embedded, queries: Queries, top: int, source: Source) -> Lists:
    """Relevant are images with the query's label, or with a caption equal to it. Raises ValueError for a gallery that is no
    larger than `top`."""
    images = check_gallery(found, top, source)
    shown = _shown(queries.key, found)
    lists, right, relevant = [], [], []
    for at in chunks(len(queries.key)):
        best = ranking.top_lists(queries.text[at] @ found.image.T, top)
        known = queries.label[at, None] >= 0
        true = (shown[at].toarray() > 0) | (known & (queries.label[at, None] == found.label[None, :]))
        lists.append(found.index[best])
        right.append(np.take_along_axis(true, best, axis=1).sum(axis=1))
        relevant.append(true.sum(axis=1))
    return Lists(
        key=queries.key,
        top=np.concatenate(lists),
        right=np.concatenate(right),
        relevant=np.concatenate(relevant),
        images=images,
        unreadable=found.bad_count,
    )


def in_common(student: Lists, teacher: Lists, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the queries that both could read: i64[q] of the student's, i64[q] of the teacher's. Raises ValueError for none."""
    key, ours, theirs = np.intersect1d(student.key, teacher.key, assume_unique=True, return_indices=True)
    if not len(key):
        raise ValueError(f"source {source.name!r}: teacher and student could read no query in common")
    return ours, theirs


def _shown(key: np.ndarray, found: Embedded) -> scipy.sparse.csr_array:
    """Above 0 where an image has a caption equal to a query: [Q, N]."""
    place = np.minimum(np.searchsorted(key, found.key), len(key) - 1)
    same = key[place] == found.key
    ones = np.ones(int(same.sum()), np.int64)
    return scipy.sparse.csr_array((ones, (place[same], found.owner[same])), shape=(len(key), len(found.image)))
