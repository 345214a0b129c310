"""Class centroids: which samples count, their direction, and what is said of classes that have none."""

import numpy as np
import pytest

from clip_jax.data import centroids
from clip_jax.data.centroids import class_centroids, first_samples
from clip_jax.data.source import BadSample, Sample


def test_means_of_the_first_samples_of_each_class():
    rng = np.random.default_rng(0)
    embeddings, labels = rng.standard_normal((200, 6)).astype(np.float32), rng.integers(-1, 4, 200)
    found = class_centroids(embeddings, labels, 4, first=10)
    assert (found.dtype, found.shape) == (np.float32, (4, 6))
    for number, row in enumerate(found):
        chosen = [embeddings[i].astype(np.float64) for i in range(200) if labels[i] == number][:10]
        assert len(chosen) == 10
        mean = sum(chosen)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), rtol=1e-5, atol=1e-7)


def test_classes_with_fewer_samples_and_one_hundred_by_default():
    embeddings = np.zeros((151, 2), np.float32)
    embeddings[:, 0] = 1
    embeddings[100:150, 1] = 1000  # beyond the first hundred
    labels = np.array([0] * 150 + [1])
    np.testing.assert_allclose(class_centroids(embeddings, labels, 2), [[1, 0], [1, 0]])
    np.testing.assert_allclose(class_centroids(embeddings, labels, 2, first=150)[0, 1], 1, rtol=1e-5)


class Labelled:
    """Samples of the labels 0, 1, 2, 0, ...; every fifth cannot be read, every seventh has no label."""

    name, classes = "labelled", ("a", "b", "c")

    def __init__(self, count: int):
        self.count, self.read = count, []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        self.read.append(index)
        if index % 5 == 0:
            raise BadSample("torn")
        label = None if index % 7 == 0 else index % 3
        return Sample(uid=index + 100, image=b"", captions=(), label=label)

    def shard(self, index: int) -> str:
        return ""

    def uid(self, index: int) -> int:
        return index + 100


@pytest.mark.parametrize("block", [1, 8, 1000])
def test_the_first_samples_of_each_class_in_the_sources_order(block, monkeypatch):
    monkeypatch.setattr(centroids, "_BLOCK", block)
    source = Labelled(100)
    good = [index for index in range(100) if index % 5 and index % 7]
    for first in (1, 6, 50):
        source.read.clear()
        uids, labels = first_samples(source, first)
        chosen = sorted(index for label in range(3) for index in [i for i in good if i % 3 == label][:first])
        assert (uids.tolist(), labels.tolist()) == ([i + 100 for i in chosen], [i % 3 for i in chosen])
        assert (uids.dtype, labels.dtype) == (np.uint64, np.int64)
        last = chosen[-1] + 1 if first < 50 else 100
        assert len(source.read) == min(100, -(-last // block) * block)  # and no more


def test_mapped_embeddings(tmp_path):
    embeddings = np.random.default_rng(1).standard_normal((50, 4)).astype(np.float16)
    embeddings.tofile(tmp_path / "e.bin")
    mapped = np.memmap(tmp_path / "e.bin", np.float16, "r", shape=(50, 4))
    labels = np.arange(50) % 3
    np.testing.assert_array_equal(class_centroids(mapped, labels, 3), class_centroids(embeddings, labels, 3))


def test_refusals():
    embeddings = np.ones((4, 2), np.float32)
    with pytest.raises(ValueError, match=r"classes 1, 3 without a sample among 4; leave them out"):
        class_centroids(embeddings, np.array([0, 2, -1, 0]), 4)
    with pytest.raises(ValueError, match=r"classes 1, 2, .*, 10 and 9 more without a sample"):
        class_centroids(embeddings, np.zeros(4, int), 20)
    with pytest.raises(ValueError, match=r"label 7 of 4 classes; labels are 0 to 3"):
        class_centroids(embeddings, np.array([0, 7, 1, 2]), 4)
    with pytest.raises(ValueError, match=r"\(3,\) labels for \(4, 2\) embeddings"):
        class_centroids(embeddings, np.zeros(3, int), 1)
    with pytest.raises(ValueError, match="the first 0 samples"):
        class_centroids(embeddings, np.zeros(4, int), 1, first=0)
    with pytest.raises(ValueError, match="classes 0 with a mean of zero"):
        class_centroids(np.array([[1, 0], [-1, 0]], np.float32), np.zeros(2, int), 1)
