"""Winoground: hits by hand, chance by drawing, a folder of files, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from clip_jax.evals.winoground import WINOGROUND_FIGURES, Winoground, WinogroundConfig, hits_of
from tests.evals.memory import FixedEncoder, embedded


def test_hits_by_hand():
    scores = np.array(
        [
            [[3, 1], [2, 4]],  # both
            [[3, 4], [2, 5]],  # caption 0 prefers image 1, yet each image its own caption
            [[3, 2], [4, 5]],  # image 0 prefers caption 1
            [[3, 3], [3, 3]],  # equal is not right
        ]
    )
    text, image, group = (hits.tolist() for hits in hits_of(scores))
    assert text == [True, True, False, False]
    assert image == [True, False, True, False]
    assert group == [True, False, False, False]


def test_chance_is_what_drawing_gives():
    hits = hits_of(np.random.default_rng(0).standard_normal((20000, 2, 2)))
    assert [float(one.mean()) for one in hits] == pytest.approx([1 / 4, 1 / 4, 1 / 6], abs=0.01)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    lines = []
    for n in range(2):
        for i in range(2):
            Image.new("RGB", (8, 8), (100 * n, 100 * i, 0)).save(tmp_path / "images" / f"ex_{n}_img_{i}.png")
        keys = {f"image_{i}": f"ex_{n}_img_{i}" for i in range(2)} | {f"caption_{i}": f"{n} {i}" for i in range(2)}
        lines.append(json.dumps({"id": n, **keys}))
    (tmp_path / "examples.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_a_folder(folder):
    rows = {"0 0": [1, 0], "0 1": [0, 1], "1 0": [0, 1], "1 1": [1, 0]}
    found = embedded([[1, 0], [0, 1], [1, 0], [0, 1]])
    evaluation = Winoground(WinogroundConfig(folder=str(folder)))
    outcome = evaluation(FixedEncoder(found, rows))
    assert {name: figure.value for name, figure in outcome.figures.items()} == dict.fromkeys(WINOGROUND_FIGURES, 0.5)
    assert outcome.counts == {"examples": 2, "unreadable": 0}
    # image 2 cannot be read: the second example is left out
    part = dataclasses.replace(embedded([[1, 0], [0, 1], [0, 1]], bad_count=1), index=np.array([0, 1, 3]))
    outcome = evaluation(FixedEncoder(part, rows))
    assert outcome.figures["group"].value == 1
    assert outcome.counts == {"examples": 1, "unreadable": 1}
    with pytest.raises(ValueError, match="no example has two images"):
        evaluation(FixedEncoder(dataclasses.replace(embedded([[1, 0]]), index=np.array([3])), rows))


def test_refusals(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks examples.jsonl or images/: accept the licence at huggingface"):
        Winoground(WinogroundConfig(folder=str(tmp_path / "nowhere")))
    (folder / "examples.jsonl").write_text('{"image_0": "a"}\n')
    with pytest.raises(ValueError, match=r"line 1: needs an object with image_0, .* \(KeyError\('image_1'\)\)"):
        Winoground(WinogroundConfig(folder=str(folder)))
    (folder / "examples.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        Winoground(WinogroundConfig(folder=str(folder)))
