"""Logistic regression against its own equations, and the search for its strength against trying all."""

import warnings

import numpy as np
import pytest

from clip_jax.evals.logistic import best_strength, fitted

STEPS = [10 ** (step / 8) for step in range(-48, 49)]


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
def test_the_gradient_of_the_named_sum_vanishes(classes: int, strength: float) -> None:
    """Of sum of -log p(label) + strength/2 |W|^2, written down here in NumPy."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, 90)
    features = rng.standard_normal((90, 5)) + np.eye(classes, 5)[labels]
    probe = fitted(features, labels, strength)
    w, b = probe.coef_, probe.intercept_
    if classes == 2:  # scikit-learn keeps one row of weights for two classes: that of the second against the first
        p = 1 / (1 + np.exp(-(features @ w[0] + b[0])))
        error = (p - labels)[:, None]
    else:
        scores = features @ w.T + b
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        error = p / p.sum(axis=1, keepdims=True) - np.eye(classes)[labels]
    assert np.abs(error.T @ features + strength * w).max() < 0.05
    assert np.abs(error.sum(axis=0)).max() < 0.05
    assert np.abs(w).max() > 0.05


@pytest.mark.parametrize("peak", range(97))
def test_the_search_finds_every_peak_in_fifteen_calls(peak: int) -> None:
    called: list[float] = []

    def score(strength: float) -> float:
        called.append(strength)
        return -abs(np.log10(strength) - np.log10(STEPS[peak]))

    assert best_strength(score) == pytest.approx(STEPS[peak])
    assert len(called) == len(set(called)) <= 15
    assert min(called) >= 1e-6
    assert max(called) <= 1e6


def test_the_strongest_of_equal_ones() -> None:
    assert best_strength(lambda strength: 0.5) == pytest.approx(1e6)


def test_few_iterations_are_no_warning() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 40)
    features = (rng.standard_normal((40, 30)) * np.logspace(-3, 3, 30)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fitted(features, labels, 1e-6).n_iter_.max() == 1000
