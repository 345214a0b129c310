"""How alike two ranked lists are: overlap, rank-biased overlap, Kendall's tau. Pure functions of NumPy arrays.

A list is a row of the k best items, best first, each a number that occurs once in its row; rows are queries. Items that a
list does not hold are unknown to it but for this: they come after those it holds.
"""

import numpy as np


def top_lists(scores: np.ndarray, k: int) -> np.ndarray:
    """Columns of the k highest of f32[Q, N] scores, best first: i64[Q, k]. The lower column goes first where scores are
    equal, and NaN goes last, so that a collapsed model gives one list for all queries, which agrees by chance only."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|A and B| / k a query, regardless of order: i64[Q, k] twice -> f64[Q] in [0, 1]."""
    return _matches(a, b).sum(axis=(1, 2)) / a.shape[1]


def chance_overlap(k: int, items: int) -> float:
    """Overlap expected of two unrelated lists of k out of `items`."""
    return k / items


def rbo(a: np.ndarray, b: np.ndarray, p: float = 0.9) -> np.ndarray:
    """Extrapolated rank-biased overlap of lists of equal length, 1 for equal and 0 for disjoint ones.

    Webber, Moffat and Zobel 2010, equation 30: X_k/k p^k + (1-p)/p sum_{d=1..k} X_d/d p^d, X_d the items common to both
    lists' first d; the agreement at depth k stands for all depths below. i64[Q, k] twice -> f64[Q] in [0, 1].
    """
    common = np.diagonal(_matches(a, b).cumsum(axis=1).cumsum(axis=2), axis1=1, axis2=2)
    return common / np.arange(1, a.shape[1] + 1)[None] @ _rbo_weights(a.shape[1], p)


def chance_rbo(k: int, items: int, p: float = 0.9) -> float:
    """RBO expected of two unrelated lists of k out of `items`, where X_d/d is d / items."""
    return float(np.arange(1, k + 1) / items @ _rbo_weights(k, p))


def kendall(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Kendall's tau-b over the union of two lists of k >= 2, where the items that one lacks are tied behind those it holds.

    1 for equal lists, -1 for reversed ones, -2k / (3k - 1) for disjoint ones: each item of one precedes all of the other in
    its own list only. i64[Q, k] twice -> f64[Q].
    """
    items = np.concatenate([a, b], axis=1)
    once = np.concatenate([np.ones(a.shape, bool), ~_matches(b, a).any(axis=2)], axis=1)
    pairs = once[:, :, None] & once[:, None, :]
    signs = []
    for ranked in (a, b):
        found = _matches(items, ranked)
        place = np.where(found.any(axis=2), found.argmax(axis=2), ranked.shape[1]).astype(np.int32)
        signs.append(np.sign(place[:, :, None] - place[:, None, :]).astype(np.int8) * pairs)
    untied = [np.abs(sign).sum(axis=(1, 2), dtype=np.float64) for sign in signs]
    return (signs[0] * signs[1]).sum(axis=(1, 2)) / np.sqrt(untied[0] * untied[1])


def chance_kendall(k: int, items: int) -> float:
    """That tau expected of two unrelated lists of k >= 2 out of `items`; it is not 0, for unrelated lists are nearly disjoint.

    With m items in common all pairs cancel out but the (k - m)^2 of an item only one list holds with one only the other holds.
    """
    from scipy.stats import hypergeom  # a second of importing, for this alone

    common = np.arange(max(0, 2 * k - items), k + 1)
    alone, union = k - common, 2 * k - common
    untied = union * (union - 1) / 2 - alone * (alone - 1) / 2
    return float(hypergeom.pmf(common, items, k, k) @ (-(alone**2) / untied))


def _matches(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether the i-th of one is the j-th of the other: bool[Q, I, J]."""
    return a[:, :, None] == b[:, None, :]


def _rbo_weights(k: int, p: float) -> np.ndarray:
    """Of the agreement at depths 1..k; they add up to 1."""
    weights = (1 - p) * p ** np.arange(k, dtype=np.float64)
    weights[-1] += p**k
    return weights
