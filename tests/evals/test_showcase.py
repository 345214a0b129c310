"""What people look at: the right pictures for a query, and the right failures."""

import numpy as np
import pytest

from clip_jax.evals import showcase as module
from clip_jax.evals.showcase import Showcase, ShowcaseConfig
from tests.evals.memory import FixedEncoder, Memory, embedded

SHADES = (10, 80, 160, 240)


def picture(shade: int) -> np.ndarray:
    return np.full((8, 8, 3), shade, np.uint8)


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Showcase:
    entries = [(picture(shade), (text,), None) for shade, text in zip(SHADES, ("a", "b", "c", "c"), strict=True)]
    monkeypatch.setattr(module, "open_source", lambda config: Memory(entries))
    return Showcase(ShowcaseConfig(queries=("first", "second"), top=2, size=8))


def test_pictures_of_queries_matrix_and_failures(show: Showcase) -> None:
    image = np.eye(4)
    captions = [(0, "a", [1, 0, 0, 0]), (1, "b", [0.9, 0.1, 0, 0]), (2, "c", [0, 0, 0, 1]), (3, "c", [0, 0, 1, 0])]
    encoder = FixedEncoder(embedded(image, captions), {"first": [0, 0.2, 0, 0.9], "second": [0.5, 0, 0.6, 0]})
    outcome = show(encoder)
    seen = outcome.pictures
    assert outcome.figures == {}
    assert seen["query_images"][..., 0, 0, 0].tolist() == [[240, 80], [160, 10]]
    np.testing.assert_allclose(seen["query_scores"], [[0.9, 0.2], [0.6, 0.5]])
    assert seen["matrix_texts"].tolist() == ["a", "b", "c", "c"]
    np.testing.assert_allclose(seen["matrix"], [row for _, _, row in captions])
    # "b" finds a's picture first; a "c" that finds the other picture called "c" is no failure.
    assert seen["failed_texts"].tolist() == ["b"]
    assert seen["failed_ranks"].tolist() == [2]
    assert seen["failed_of"].tolist() == [1, 4]
    assert seen["failed_wanted"][0, 0, 0, 0] == 80
    assert seen["failed_got"][0, 0, 0, 0] == 10
    assert all(array.dtype != object for array in seen.values())


def test_without_queries_or_pairs(show: Showcase) -> None:
    with pytest.raises(ValueError, match="needs queries"):
        Showcase(ShowcaseConfig())
    with pytest.raises(ValueError, match="no readable pair"):
        show(FixedEncoder(embedded(np.zeros((0, 4)))))
