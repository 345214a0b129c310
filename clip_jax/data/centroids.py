"""Class centroids of a teacher's stored embeddings, the targets of CLIP-Embed-KD (there means of raw CLS features)."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from clip_jax.data.source import BadSample, Source

_NAMED = 10  # classes that an error lists
_BLOCK = 1024  # samples read at once
_THREADS = min(32, os.cpu_count() or 1)


def first_samples(source: Source, first: int) -> tuple[np.ndarray, np.ndarray]:
    """(uids u64[n], labels i64[n]) of the first `first` readable samples of each class, in the source's order."""
    uids, labels, found = [], [], np.zeros(len(source.classes), np.int64)

    def read(index: int) -> tuple[int, int | None]:
        try:
            sample = source[index]
        except BadSample:
            return 0, None
        return sample.uid, sample.label

    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(source), _BLOCK):
            if found.min() >= first:
                break
            for uid, label in pool.map(read, range(start, min(start + _BLOCK, len(source)))):
                if label is not None and found[label] < first:
                    uids.append(uid)
                    labels.append(label)
                    found[label] += 1
    return np.array(uids, np.uint64), np.array(labels, np.int64)


def class_centroids(embeddings: np.ndarray, labels: np.ndarray, classes: int, first: int = 100) -> np.ndarray:
    """The unit-norm mean of each class's first samples, `first` at most: f32[C, D] for f32[N, D] and i64[N].

    Labels below 0 are of no class. Only the rows needed are read, so `embeddings` may be mapped from disk. Raises
    ValueError for labels of `classes` and more, for classes without a sample and for those whose mean is zero.
    """
    labels = np.asarray(labels)
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(f"{labels.shape} labels for {embeddings.shape} embeddings; give one label a row")
    if first < 1:
        raise ValueError(f"the first {first} samples of each class; use 1 or more")
    if (labels >= classes).any():
        raise ValueError(f"label {labels.max()} of {classes} classes; labels are 0 to {classes - 1}, or -1 for none")
    order = np.argsort(labels, kind="stable")
    begin, end = (np.searchsorted(labels[order], np.arange(classes), side=side) for side in ("left", "right"))
    if empty := np.flatnonzero(begin == end).tolist():
        raise ValueError(
            f"{_listed(empty)} without a sample among {len(labels)}; leave them out, or embed more samples"
        )
    means = np.stack(
        [
            embeddings[order[start : min(stop, start + first)]].mean(axis=0, dtype=np.float64)
            for start, stop in zip(begin, end, strict=True)
        ]
    )
    length = np.linalg.norm(means, axis=1, keepdims=True)
    if vanished := np.flatnonzero(length[:, 0] == 0).tolist():
        raise ValueError(f"{_listed(vanished)} with a mean of zero, which has no direction; take more samples of them")
    return (means / length).astype(np.float32)


def _listed(classes: list[int]) -> str:
    more = f" and {len(classes) - _NAMED} more" if len(classes) > _NAMED else ""
    return f"classes {', '.join(map(str, classes[:_NAMED]))}{more}"
