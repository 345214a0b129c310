"""Likeness of ranked lists: by hand, against SciPy and a brute force, and at chance."""

import math

import numpy as np
import pytest
import scipy.stats

from clip_jax import ranking

LETTERS = "abcdefgh"


def lists(*texts: str) -> np.ndarray:
    return np.array([[LETTERS.index(letter) for letter in text] for text in texts])


def random_lists(seed: int, queries: int, k: int, items: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([rng.permutation(items)[:k] for _ in range(queries)])


def test_top_lists():
    scores = np.array([[0.1, 0.9, 0.5, 0.9], [math.nan, 0.2, math.nan, 0.3], [math.nan] * 4, [0.5] * 4], np.float32)
    np.testing.assert_array_equal(ranking.top_lists(scores, 3), [[1, 3, 2], [3, 1, 0], [0, 1, 2], [0, 1, 2]])


def test_overlap_by_hand():
    found = ranking.overlap(lists("abcd", "abcd", "abcd", "abcd"), lists("abcd", "dcba", "efgh", "aefb"))
    np.testing.assert_allclose(found, [1, 1, 0, 0.5])


def test_rbo_by_hand():
    a, b = lists("abc", "abc", "abc"), lists("abc", "cba", "bad")
    # "cba": nothing in common at depth 1, b at 2, all at 3; "bad": 0, 2, 2
    expected = [
        1,
        3 / 3 * 0.9**3 + (0.1 / 0.9) * (0 / 1 * 0.9 + 1 / 2 * 0.9**2 + 3 / 3 * 0.9**3),
        2 / 3 * 0.9**3 + (0.1 / 0.9) * (0 / 1 * 0.9 + 2 / 2 * 0.9**2 + 2 / 3 * 0.9**3),
    ]
    np.testing.assert_allclose(ranking.rbo(a, b), expected, rtol=1e-12)
    assert ranking.rbo(lists("abcd"), lists("efgh")) == 0
    # p says how much the head counts: near 0 only the first place does
    np.testing.assert_allclose(ranking.rbo(lists("ab", "ab"), lists("ac", "ca"), p=1e-9), [1, 0], atol=1e-8)


@pytest.mark.parametrize("p", [0.5, 0.9])
def test_rbo_equals_the_infinite_sum(p):
    """Extrapolation is the sum over all depths where the agreement of the last one seen goes on."""
    a, b = random_lists(0, 5, 6, 9), random_lists(1, 5, 6, 9)
    for one, other, found in zip(a.tolist(), b.tolist(), ranking.rbo(a, b, p), strict=True):
        agreement = [len(set(one[:d]) & set(other[:d])) / d for d in range(1, 7)]
        tail = (agreement[min(d, 6) - 1] * p ** (d - 1) for d in range(1, 2000))
        assert found == pytest.approx((1 - p) * sum(tail), rel=1e-9)


def test_kendall_by_hand():
    a = lists("abc", "abc", "abc", "abc")
    b = lists("abc", "cba", "acb", "abd")
    # "abd": of the six pairs of a, b, c, d all agree but (c, d), and a single missing item is tied with none: (5 - 1) / 6
    np.testing.assert_allclose(ranking.kendall(a, b), [1, -1, 1 / 3, 4 / 6], rtol=1e-12)
    for k in (2, 4):
        disjoint = ranking.kendall(np.arange(k)[None], np.arange(k, 2 * k)[None])
        np.testing.assert_allclose(disjoint, -2 * k / (3 * k - 1), rtol=1e-12)


@pytest.mark.parametrize(("k", "items"), [(2, 3), (5, 7), (20, 30), (20, 200)])
def test_kendall_equals_scipy(k, items):
    a, b = random_lists(2, 30, k, items), random_lists(3, 30, k, items)
    for one, other, found in zip(a.tolist(), b.tolist(), ranking.kendall(a, b), strict=True):
        union = sorted({*one, *other})
        places = [[ranked.index(item) if item in ranked else k for item in union] for ranked in (one, other)]
        expected = scipy.stats.kendalltau(*places).statistic  # tau-b
        assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("k", "items"), [(3, 4), (5, 12), (20, 100)])
def test_unrelated_lists_are_at_chance(k, items):
    a, b = random_lists(4, 3000, k, items), random_lists(5, 3000, k, items)
    for values, chance in (
        (ranking.overlap(a, b), ranking.chance_overlap(k, items)),
        (ranking.rbo(a, b), ranking.chance_rbo(k, items)),
        (ranking.kendall(a, b), ranking.chance_kendall(k, items)),
    ):
        assert abs(values.mean() - chance) < 5 * values.std() / math.sqrt(len(values))


def test_a_list_of_everything_is_tau_zero_at_chance():
    assert ranking.chance_kendall(6, 6) == 0
    assert ranking.chance_overlap(6, 6) == 1
