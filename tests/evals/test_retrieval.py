"""Retrieval by hand, against a brute force over dicts, and at chance."""

import math

import numpy as np
import pytest

from clip_jax.evals import protocol, retrieval
from clip_jax.evals.retrieval import Retrieval, RetrievalConfig, retrieval_figures
from tests.evals.memory import FixedEncoder, Memory, embedded

EYE = np.eye(4)


def values(found) -> dict[str, float]:
    return {name: figure.value for name, figure in retrieval_figures(found).items()}


def test_by_hand_with_several_captions_an_image():
    images = EYE[:3]
    captions = [
        (0, "a cat", EYE[0]),  # found by its image, and finds it
        (0, "a tabby", EYE[1]),  # finds image 1
        (1, "a dog", [0.3, 0.4, 0.5, 0]),  # finds image 2, then its own
        (2, "a bird", [0, 0, 0.9, 0]),
    ]
    figures = retrieval_figures(embedded(images, captions))
    # image 1's best caption is "a tabby" (1.0), its own comes second (0.4)
    assert figures["image_to_text_r1"].value == pytest.approx(2 / 3)
    assert figures["image_to_text_r5"].value == 1
    # "a tabby" and "a dog" miss
    assert figures["text_to_image_r1"].value == pytest.approx(2 / 4)
    assert figures["text_to_image_r5"].value == 1
    # chance: one of three images; of four captions 2, 1, 1 are right
    assert figures["text_to_image_r1"].chance == pytest.approx(1 / 3)
    assert figures["image_to_text_r1"].chance == pytest.approx((2 / 4 + 1 / 4 + 1 / 4) / 3)
    assert figures["text_to_image_r5"].chance == figures["image_to_text_r5"].chance == 1


def test_images_with_the_same_caption_stand_for_each_other():
    images = EYE[:3]
    captions = [(0, "a Cat", EYE[1]), (1, "a  cat", EYE[0]), (2, "a dog", EYE[2])]  # equal but for case and spaces
    figures = retrieval_figures(embedded(images, captions))
    assert figures["text_to_image_r1"].value == figures["image_to_text_r1"].value == 1
    assert figures["text_to_image_r1"].chance == pytest.approx((2 / 3 + 2 / 3 + 1 / 3) / 3)
    captions[1] = (1, "a kitten", EYE[0])
    assert values(embedded(images, captions))["text_to_image_r1"] == pytest.approx(1 / 3)


def test_a_caption_twice_on_one_image_counts_once():
    captions = [(0, "x", EYE[1]), (0, "x", EYE[1]), (1, "y", EYE[0])]
    figures = retrieval_figures(embedded(EYE[:2], captions))
    assert figures["text_to_image_r1"].chance == pytest.approx(1 / 2)
    assert figures["image_to_text_r1"].chance == pytest.approx((2 / 3 + 1 / 3) / 2)


def test_an_image_without_captions_is_only_in_the_way():
    captions = [(0, "x", EYE[2]), (1, "y", EYE[1])]
    figures = retrieval_figures(embedded(EYE[:3], captions))
    assert figures["text_to_image_r1"].value == 1 / 2
    assert figures["text_to_image_r1"].chance == pytest.approx(1 / 3)
    assert figures["image_to_text_r1"].chance == pytest.approx(1 / 2)  # of two images that ask


@pytest.mark.parametrize("row", [[1.0, 0.0], [math.nan, math.nan]], ids=["constant", "nan"])
def test_a_collapsed_model_finds_nothing(row):
    count = 12
    captions = [(i, f"caption {i}", row) for i in range(count)]
    assert set(values(embedded([row] * count, captions)).values()) == {0.0}


@pytest.mark.parametrize("chunk", [3, 1024])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_a_brute_force(monkeypatch, seed, chunk):
    monkeypatch.setattr(protocol, "_CHUNK", chunk)
    rng = np.random.default_rng(seed)
    images = rng.integers(-1, 2, (15, 3))  # small integers: many ties
    words = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"]
    captions = [(int(rng.integers(15)), str(rng.choice(words)), rng.integers(-1, 2, 3)) for _ in range(40)]
    found = embedded(images, captions)
    texts_of = {i: {text for owner, text, _ in captions if owner == i} for i in range(15)}

    def hit(scores, relevant, k):
        best = max(scores[i] for i in relevant)
        return sum(scores[i] >= best for i in range(len(scores)) if i not in relevant) < k

    for k in (1, 5, 10):
        to_text = [
            hit(
                [images[i] @ row for _, _, row in captions],
                {j for j, (_, text, _) in enumerate(captions) if text in texts_of[i]},
                k,
            )
            for i in range(15)
            if texts_of[i]
        ]
        to_image = [
            hit([image @ row for image in images], {i for i in range(15) if text in texts_of[i]}, k)
            for _, text, row in captions
        ]
        assert values(found)[f"image_to_text_r{k}"] == pytest.approx(np.mean(to_text))
        assert values(found)[f"text_to_image_r{k}"] == pytest.approx(np.mean(to_image))


def test_exact_recall_is_a_count_over_sorted_lists():
    """COCO's way: of five captions an image any may be found, of a caption its own image only, equal captions or not."""
    rng = np.random.default_rng(5)
    images = rng.standard_normal((40, 6)).astype(np.float32)
    captions = [
        (i // 5, f"text {i % 7}", row) for i, row in enumerate(rng.standard_normal((200, 6)).astype(np.float32))
    ]
    figures = retrieval_figures(embedded(images, captions), exact=True)
    texts = np.array([row for _, _, row in captions])
    for k in (1, 5, 10):
        found = [any(j // 5 == i for j in np.argsort(-(texts @ images[i]))[:k]) for i in range(40)]
        assert figures[f"image_to_text_r{k}"].value == pytest.approx(sum(found) / 40)
        found = [j // 5 in np.argsort(-(images @ texts[j]))[:k] for j in range(200)]
        assert figures[f"text_to_image_r{k}"].value == pytest.approx(sum(found) / 200)


def test_random_embeddings_are_at_chance():
    rng = np.random.default_rng(3)
    images = rng.standard_normal((400, 64))
    captions = [(i % 400, f"caption {i % 300}", row) for i, row in enumerate(rng.standard_normal((1200, 64)))]
    for name, figure in retrieval_figures(embedded(images, captions)).items():
        error = (figure.chance * (1 - figure.chance) / 400) ** 0.5
        assert abs(figure.value - figure.chance) < 5 * error, name


def test_the_protocol(monkeypatch):
    monkeypatch.setattr(
        retrieval, "open_source", lambda config: Memory([(np.zeros((4, 4, 3), np.uint8), ("a",), None)])
    )
    found = embedded(EYE[:2], [(0, "x", EYE[0]), (0, "z", EYE[1]), (1, "y", EYE[1])], bad_count=3)
    outcome = Retrieval(RetrievalConfig())(FixedEncoder(found))
    assert outcome.counts == {"images": 2, "captions": 3, "unreadable": 3}
    assert outcome.figures["text_to_image_r1"].value == pytest.approx(2 / 3)
    first = Retrieval(RetrievalConfig(first_caption=True))(FixedEncoder(found))
    assert first.counts == {"images": 2, "captions": 2, "unreadable": 3}
    assert first.figures["text_to_image_r1"].value == 1
    with pytest.raises(ValueError, match="source 'memory' gave no readable image with a caption"):
        Retrieval(RetrievalConfig())(FixedEncoder(embedded(np.zeros((0, 4)))))
