"""Several meanings: groups against scikit-learn, figures by hand, chance by drawing, and what is refused."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from clip_jax.evals import senses
from clip_jax.evals.senses import Senses, SensesConfig, chance_covered, entropy, groups, sense_figures
from tests.evals.memory import FixedEncoder, Memory, embedded

# The teacher finds two senses in turn, images 0, 2, 4 along one axis and 1, 3, 5 along another; 6 and 7 are none of them.
TEACHER = [[1, 1, 0], [0.9, 0, 1], [0.8, 1, 0], [0.7, 0, 1], [0.6, 1, 0], [0.5, 0, 1], [-1, 0, 0], [-1, 0, 0]]
CONFIG = SensesConfig(teacher="t", top=4, pool=6, senses=2, queries=("crane",))


def opened(monkeypatch, found, config: SensesConfig = CONFIG) -> Senses:
    entry = (np.zeros((4, 4, 3), np.uint8), ("a",), None)
    monkeypatch.setattr(senses, "open_source", lambda config: Memory([entry]))
    return Senses(config, lambda name: encoder(found))


def encoder(rows) -> FixedEncoder:
    return FixedEncoder(embedded(rows), {"crane": [1, 0, 0]})


def test_by_hand(monkeypatch):
    evaluation = opened(monkeypatch, TEACHER)
    same = evaluation(encoder(TEACHER))
    assert {name: figure.value for name, figure in same.figures.items()} == {
        "senses_covered_at_4": 1,
        "teacher_senses_covered_at_4": 1,
        "entropy_ratio": 1,
    }
    assert tuple(same.figures) == sense_figures(CONFIG)
    assert same.counts == {"images": 8, "queries": 1, "unreadable": 0}
    # a student of one sense alone: 0, 2, 4 and then an image that the teacher's pool does not hold
    one = evaluation(encoder([[9 - i if i in (0, 2, 4, 6) else -i, 0, 0] for i in range(8)]))
    assert one.figures["senses_covered_at_4"].value == 0.5
    assert one.figures["entropy_ratio"].value == 0
    # 0, 2, 4 and 1: 3/4 and 1/4 against two halves
    most = evaluation(encoder([[9 - i if i in (0, 2, 4, 1) else -i, 0, 0] for i in range(8)]))
    assert most.figures["senses_covered_at_4"].value == 1
    wanted = (-0.75 * np.log(0.75) - 0.25 * np.log(0.25)) / np.log(2)
    assert most.figures["entropy_ratio"].value == pytest.approx(wanted)


def test_groups_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    rows = np.repeat(np.linalg.qr(rng.standard_normal((8, 8)))[0][:4], 25, axis=0) + 0.1 * rng.standard_normal((100, 8))
    rows = rng.permutation(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    theirs = KMeans(4, n_init=10, random_state=0).fit_predict(rows)
    assert adjusted_rand_score(groups(rows, 4), theirs) == 1
    assert set(groups(np.ones((5, 2)) / np.sqrt(2), 3).tolist()) == {0}  # equal images are one sense


def test_entropy_by_hand():
    assert entropy(np.array([[1, 1], [4, 0], [0, 0]])) == pytest.approx([np.log(2), 0, 0])


def test_chance_is_what_drawing_gives():
    counts, rng = np.array([[6, 3, 1]]), np.random.default_rng(0)
    sense = np.repeat([0, 1, 2, 3], [6, 3, 1, 20])
    drawn = [len({*rng.permutation(sense)[:5].tolist()} - {3}) / 3 for _ in range(4000)]
    assert chance_covered(counts, 5, 30) == pytest.approx(np.mean(drawn), abs=0.02)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SensesConfig(teacher=""), "senses need a teacher"),
        (SensesConfig(teacher="t", senses=1), "senses 1: give a number of at least 2"),
        (SensesConfig(teacher="t", top=101), "top 101 of a pool of 100"),
        (SensesConfig(teacher="t", top=2, pool=3), "pool 3 has no 4 senses"),
        (SensesConfig(teacher="t", queries=("crane",)), "gave 8 readable images; the first 100 of so few"),
    ],
)
def test_refusals(monkeypatch, config, message):
    with pytest.raises(ValueError, match=message):
        opened(monkeypatch, TEACHER, config)
