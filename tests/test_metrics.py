"""Ranks, recall, accuracy and chance: small cases by hand, ties, NaN, enumeration of all orders."""

import itertools

import numpy as np
import pytest

from clip_jax import metrics


def test_ranks_by_hand():
    scores = np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.9, 0.5, 0.1]])
    relevant = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1]], bool)
    np.testing.assert_array_equal(metrics.ranks(scores, relevant), [0, 1, 2, 1])


def test_the_best_relevant_item_counts_and_other_relevant_ones_do_not_stand_in_its_way():
    scores = np.array([[0.8, 0.9, 0.7, 0.6]])
    assert metrics.ranks(scores, np.array([[True, False, True, True]])) == [1]
    assert metrics.ranks(scores, np.array([[False, True, True, True]])) == [0]


def test_ties_count_against_the_query():
    scores = np.array([[0.5, 0.5, 0.5, 0.1]])
    assert metrics.ranks(scores, np.array([[True, False, False, False]])) == [2]
    assert metrics.ranks(scores, np.array([[True, True, False, False]])) == [1]


@pytest.mark.parametrize("constant", [0.0, 1.0, np.nan, np.inf])
def test_a_collapsed_model_has_nothing(constant):
    scores = np.full((20, 20), constant)
    rank = metrics.ranks(scores, np.eye(20, dtype=bool))
    np.testing.assert_array_equal(rank, 19)
    assert metrics.recall_at(rank, 10) == 0
    labels = np.arange(20)
    assert metrics.top_k_accuracy(scores, labels, 5) == 0
    assert metrics.mean_per_class_accuracy(scores, labels) == 0


def test_recall_at():
    rank = np.array([0, 0, 1, 4, 5, 10])
    assert [metrics.recall_at(rank, k) for k in (1, 2, 5, 6, 11)] == [2 / 6, 3 / 6, 4 / 6, 5 / 6, 1]


@pytest.mark.parametrize("k", [1, 2, 3, 5, 6, 10])
def test_chance_by_all_orders(k):
    items, relevant = 6, np.array([1, 2, 5, 6])
    expected = []
    for count in relevant:
        draws = list(itertools.combinations(range(items), min(k, items)))  # which items are in the top k
        expected.append(np.mean([min(draw) < count for draw in draws]))
    assert metrics.chance_recall_at(relevant, items, k) == pytest.approx(np.mean(expected), abs=1e-12)


def test_chance_by_monte_carlo():
    rng = np.random.default_rng(0)
    queries, items = 4000, 30
    relevant = np.arange(items)[None] < rng.integers(1, 4, (queries, 1))
    rank = metrics.ranks(rng.random((queries, items)), relevant)
    for k in (1, 5, 10):
        expected = metrics.chance_recall_at(relevant.sum(axis=1), items, k)
        error = (expected * (1 - expected) / queries) ** 0.5
        assert abs(metrics.recall_at(rank, k) - expected) < 4 * error


def test_top_k_accuracy_by_hand():
    scores = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.2, 0.3, 0.1], [0.3, 0.3, 0.1]])
    labels = np.array([2, 1, 0, 0])  # ranks 0, 1, 1, and tied with one: 1
    assert metrics.top_k_accuracy(scores, labels, 1) == 1 / 4
    assert metrics.top_k_accuracy(scores, labels, 2) == 1
    assert metrics.top_k_accuracy(np.eye(3)[labels], labels, 1) == 1


def test_mean_per_class_weighs_classes_alike():
    labels = np.array([0, 0, 0, 0, 2, 2])  # class 1 does not occur
    guesses = np.array([0, 0, 0, 1, 2, 1])
    assert metrics.mean_per_class_accuracy(np.eye(3)[guesses], labels) == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert metrics.top_k_accuracy(np.eye(3)[guesses], labels, 1) == 4 / 6
