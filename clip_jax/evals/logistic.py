"""Logistic regression as CLIP's linear probe fits it, and the search for how much to regularise it. Radford et al. 2021, A.3."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

_ITERATIONS = 1000  # of L-BFGS, at most
_DECADE = 8  # steps of the finest search
_COARSE = 16  # steps between the first seven values, 10^-6, 10^-4, ... 10^6: two decades


def fitted(features: np.ndarray, labels: np.ndarray, strength: float) -> Any:
    """scikit-learn's multinomial LogisticRegression by L-BFGS from zero: least sum of cross entropies + strength/2 |W|^2.

    features: f32[N, F]. labels: i64[N], of at least two classes. The intercepts are not regularised.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():  # weak regularisation takes more iterations than the protocol grants
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=1 / strength, max_iter=_ITERATIONS).fit(features, labels)


def best_strength(score: Callable[[float], float]) -> float:
    """The strength in [10^-6, 10^6] with the highest score, of 96 steps of an eighth of a decade.

    Seven values first, two decades apart; then the distance to the neighbours of the best is halved until it is one step:
    15 calls at most. Of equal scores the strongest regularisation is taken.
    """
    scored = functools.cache(lambda step: (score(10 ** (step / _DECADE)), step))
    edge = 3 * _COARSE
    best = max(range(-edge, edge + 1, _COARSE), key=scored)
    distance = _COARSE // 2
    while distance:
        best = max((step for step in (best - distance, best, best + distance) if abs(step) <= edge), key=scored)
        distance //= 2
    return 10 ** (best / _DECADE)
