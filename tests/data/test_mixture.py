"""Mixtures: proportions in every window, full coverage, labels, and wrong weights."""

import pickle

import numpy as np
import pytest

from clip_jax.data.mixture import Mixture
from clip_jax.data.source import BadSample, Sample, sample_uid


class Numbers:
    """A source whose sample i has the caption "NAME i"; the 13th cannot be read."""

    def __init__(self, name: str, length: int, classes: tuple[str, ...] = ()):
        self.name, self.classes, self._length = name, classes, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        if index == 13:
            raise BadSample("thirteen")
        return Sample(uid=self.uid(index), image=b"", captions=(f"{self.name} {index}",), label=index % 2)

    def shard(self, index: int) -> str:
        return f"{self.name}.{index // 10}"

    def uid(self, index: int) -> int:
        return sample_uid(self.name, str(index))


def turns(mixture: Mixture, count: int) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.array([mixture.locate(i) for i in range(count)]).T)


def test_samples_pass_through():
    a, b = Numbers("a", 20), Numbers("b", 20)
    mixture = Mixture([(1, a), (1, b)])
    assert len(mixture) == 40
    for i in range(40):
        number, inner = mixture.locate(i)
        source = (a, b)[number]
        assert mixture.uid(i) == source.uid(inner)
        assert mixture.shard(i) == source.shard(inner)
        if inner == 13:
            with pytest.raises(BadSample, match="thirteen"):
                mixture[i]
        else:
            assert mixture[i].captions == source[inner].captions
    for outside in (-1, 40):
        with pytest.raises(IndexError, match=f"sample {outside} of 40"):
            mixture[outside]


@pytest.mark.parametrize("weights", [(1, 1), (0.7, 0.2, 0.1), (1, 2), (1, 1, 1), (100, 1), (5, 4, 3, 2, 1)])
def test_every_window_is_in_proportion(weights):
    mixture = Mixture([(weight, Numbers(f"s{i}", 200_000)) for i, weight in enumerate(weights)])
    number, _ = turns(mixture, 140_000)  # over two seams of the pattern
    share = np.array(weights) / sum(weights)
    for i, part in enumerate(share):
        surplus = np.concatenate([[0], np.cumsum(number == i)]) - part * np.arange(140_001)
        # the surplus of a window is the difference of two of these; the slow drift is the rounding of the share
        for width in (1, 16, 256, 4096):
            assert np.abs(surplus[width:] - surplus[:-width]).max() <= len(weights) + width / 65_536


def test_samples_of_a_source_follow_in_order_and_repeat():
    mixture = Mixture([(3, Numbers("small", 7)), (1, Numbers("large", 100))])
    number, inner = turns(mixture, len(mixture))
    np.testing.assert_array_equal(inner[number == 1], np.arange(100))
    small = inner[number == 0]
    np.testing.assert_array_equal(small, np.arange(len(small)) % 7)
    assert 296 <= len(small) <= 304


@pytest.mark.parametrize("lengths", [(1, 1), (5, 1000), (200_000, 3), (70_000, 140_000)])
def test_length_is_the_least_that_shows_every_sample(lengths):
    mixture = Mixture([(0.3, Numbers("a", lengths[0])), (0.9, Numbers("b", lengths[1]))])
    number, inner = turns(mixture, len(mixture))
    seen = [len(set(inner[number == i].tolist())) for i in range(2)]
    assert seen == list(lengths)
    last = inner[number == number[-1]]
    assert last[-1] == lengths[number[-1]] - 1
    assert (last == last[-1]).sum() == 1


def test_one_source_is_itself():
    mixture = Mixture([(0.25, Numbers("a", 70_000))])
    assert len(mixture) == 70_000
    assert [mixture.locate(i) for i in (0, 65_535, 65_536, 69_999)] == [(0, 0), (0, 65_535), (0, 65_536), (0, 69_999)]


def test_a_source_may_come_twice_and_mixtures_nest():
    a, b = Numbers("a", 10), Numbers("b", 10)
    outer = Mixture([(1, Mixture([(1, a), (1, b)])), (1, b)], name="outer")
    assert outer.name == "outer"
    captions = [outer[i].captions[0] for i in range(20)]
    assert captions[:4] == ["a 0", "b 0", "b 0", "b 1"]


def test_labels_where_the_classes_agree():
    same = Mixture([(1, Numbers("a", 5, ("x", "y"))), (1, Numbers("b", 5, ("x", "y")))])
    assert same.classes == ("x", "y")
    assert same[2].label == 1
    mixed = Mixture([(1, Numbers("a", 5, ("x", "y"))), (1, Numbers("b", 5, ("y", "x")))])
    assert mixed.classes == ()
    assert mixed[2].label is None


def test_pickle():
    mixture = Mixture([(1, Numbers("a", 20)), (3, Numbers("b", 20))])
    again = pickle.loads(pickle.dumps(mixture))
    assert [again.uid(i) for i in range(len(mixture))] == [mixture.uid(i) for i in range(len(mixture))]


@pytest.mark.parametrize("weight", [0, -1.0, float("nan"), float("inf")])
def test_wrong_weights(weight):
    with pytest.raises(ValueError, match=f"weight {weight} of b; give a positive number"):
        Mixture([(1, Numbers("a", 5)), (weight, Numbers("b", 5))])


def test_other_errors():
    with pytest.raises(ValueError, match="no sources"):
        Mixture([])
    with pytest.raises(ValueError, match="b has no samples"):
        Mixture([(1, Numbers("a", 5)), (1, Numbers("b", 0))])
    with pytest.raises(ValueError, match="weight 1e-07 is less than 1 / 65536 of all"):
        Mixture([(1, Numbers("a", 5)), (1e-7, Numbers("b", 5))])
