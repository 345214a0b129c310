"""Figures over scores: recall at k, accuracy, and what chance would give. Pure functions of NumPy arrays."""

from collections.abc import Sequence

import numpy as np


def ranks(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Per query, how many irrelevant items score at least as high as the best relevant one: i64[Q].

    scores: f32[Q, N]. relevant: bool[Q, N], at least one a row. Ties count against the query, so that a collapsed model
    does not shine; NaN ties with everything.
    """
    best = np.where(relevant, scores, -np.inf).max(axis=1, keepdims=True)
    return (~(scores < best) & ~relevant).sum(axis=1)


def recall_at(rank: np.ndarray, k: int) -> float:
    """Share of queries whose rank is below k."""
    return float((rank < k).mean())


def chance_recall_at(relevant: np.ndarray, items: int, k: int) -> float:
    """Recall at k of a random order: the mean over queries of 1 - C(N - r, k) / C(N, k). relevant: i64[Q], r >= 1 each."""
    miss = np.ones(len(relevant), np.float64)
    for draw in range(min(k, items)):
        miss *= np.clip((items - relevant - draw) / (items - draw), 0, 1)
    return float((1 - miss).mean())


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of rows whose label is among the k highest of f32[B, N] scores; ties and NaN count against the row."""
    return float((_above(scores, labels) < k).mean())


def mean_per_class_accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that occur of the accuracy within the class."""
    hits = _above(scores, labels) == 0
    present: Sequence[int] = np.unique(labels).tolist()
    return float(np.mean([hits[labels == label].mean() for label in present]))


def _above(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Per row, how many other scores are not below the label's: i64[B]."""
    return (~(scores < np.take_along_axis(scores, labels[:, None], axis=1))).sum(axis=1) - 1
