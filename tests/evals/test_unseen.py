"""Outside the training set: bins and figures by hand, and what is refused."""

import numpy as np
import pytest

from clip_jax.evals import protocol, unseen
from clip_jax.evals.unseen import Unseen, UnseenConfig, binned, nearest, unseen_figures
from tests.evals.memory import FixedEncoder, Memory, embedded

GALLERY = [[4, 1], [3, 2], [2, 3], [1, 4]]
CONFIG = UnseenConfig(teacher="t", top=2, bins=2)
TRAINED = {"right": [1, 0], "also right": [0.8, 0.6]}


def opened(monkeypatch, teacher, config: UnseenConfig = CONFIG, trained: tuple[str, ...] = tuple(TRAINED)) -> Unseen:
    entry = (np.zeros((4, 4, 3), np.uint8), ("a",), None)
    sources = iter([Memory([entry]), Memory([(entry[0], trained, None), "torn"])])
    monkeypatch.setattr(unseen, "open_source", lambda config: next(sources))
    return Unseen(config, lambda name: teacher)


def test_by_hand(monkeypatch):
    """The student takes the query that was not trained on for the one that was."""
    captions = [(0, "right", [1, 0]), (1, "right", [1, 0]), (2, "up", [0, 1]), (3, "up", [0, 1])]
    teacher = FixedEncoder(embedded(GALLERY, captions), TRAINED)
    student = FixedEncoder(embedded(GALLERY, [(owner, text, [1, 0]) for owner, text, _ in captions]))
    outcome = opened(monkeypatch, teacher)(student)
    assert {name: (figure.value, figure.chance) for name, figure in outcome.figures.items()} == {
        "cosine_bin_1": (pytest.approx(0.6), None),
        "bin_1_overlap_at_2": (0, 0.5),
        "bin_1_precision_at_2": (0, 0.5),
        "cosine_bin_2": (1, None),
        "bin_2_overlap_at_2": (1, 0.5),
        "bin_2_precision_at_2": (1, 0.5),
    }
    assert tuple(outcome.figures) == unseen_figures(CONFIG)
    assert outcome.counts == {"images": 4, "queries": 2, "trained captions": 2, "unreadable": 0}


def test_equal_cosines_share_a_bin():
    assert binned(np.array([0.3, 0.1, 0.4, 0.2]), 2).tolist() == [1, 0, 1, 0]
    assert binned(np.array([0.2, 1, 1, 1, 1 - 1e-7, 1]), 3).tolist() == [0, 1, 1, 1, 1, 1]
    assert binned(np.array([0.1, 0.2, 1, 1]), 2).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("chunk", [3, 1024])
def test_nearest_in_parts(monkeypatch, chunk):
    monkeypatch.setattr(protocol, "_CHUNK", chunk)
    rng = np.random.default_rng(0)
    queries, trained = rng.standard_normal((10, 4)), rng.standard_normal((8, 4))
    assert nearest(queries, trained) == pytest.approx((queries @ trained.T).max(axis=1), rel=1e-5)


@pytest.mark.parametrize(
    ("config", "trained", "message"),
    [
        (UnseenConfig(teacher=""), ("a",), "unseen needs a teacher"),
        (UnseenConfig(teacher="t", top=0), ("a",), "top 0: give a number of results of at least 1"),
        (UnseenConfig(teacher="t", bins=1), ("a",), "bins 1: give a number of at least 2"),
        (UnseenConfig(teacher="t", trained_limit=-1), ("a",), "trained_limit -1: give a number of samples"),
        (UnseenConfig(teacher="t"), (" ",), "gave no caption that was trained on"),
        (UnseenConfig(teacher="t"), ("right",), "gave 4 readable images; the first 20 of so few"),
    ],
)
def test_refusals(monkeypatch, config, trained, message):
    with pytest.raises(ValueError, match=message):
        opened(monkeypatch, FixedEncoder(embedded(GALLERY), TRAINED), config, trained)
