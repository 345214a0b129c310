"""Colour: the words of captions, figures by hand and at chance, against a teacher, and what it refuses."""

import dataclasses

import numpy as np
import pytest

from clip_jax.data.glyphs import Glyphs, GlyphsConfig
from clip_jax.evals import colors
from clip_jax.evals.color_words import COLORS, query, told
from clip_jax.evals.colors import Colors, ColorsConfig, color_figures
from tests.evals.memory import FixedEncoder, Memory, embedded

PICTURE = np.zeros((4, 4, 3), np.uint8)
SIZE = len(COLORS)


class Meaning(FixedEncoder):
    """An encoder of texts by their words: one axis a colour, then one for all else; `blind` sees no colour."""

    def __init__(self, found, *, blind=False):
        super().__init__(found)
        self._blind = blind

    def texts(self, texts):
        return np.stack([meaning("" if self._blind else text) for text in texts])


def meaning(text: str) -> np.ndarray:
    row = np.zeros(SIZE + 1, np.float32)
    row[SIZE] = 1
    for number, color in enumerate(COLORS):
        row[number] = color in text.lower()
    return row


def opened(monkeypatch, captions, config: ColorsConfig, teacher=None) -> Colors:
    entries = [one if isinstance(one, str) else (PICTURE, one, None) for one in captions]
    monkeypatch.setattr(colors, "open_source", lambda config: Memory(entries))
    return Colors(config, lambda name: teacher)


@pytest.mark.parametrize(
    ("caption", "color", "noun", "swapped"),
    [
        ("a red bell on white", None, "", ""),
        ("an icon of a red bell", "red", "bell", "an icon of an orange bell"),
        ("An orange cat, asleep", "orange", "cat", "An orange cat, asleep"),
        ("A Red double-decker bus on a street", "red", "double-decker bus", "An Orange double-decker bus on a street"),
        ("two white dogs", "white", "dogs", "two orange dogs"),
        ("the car is red.", "red", "", "the car is orange."),
        ("a grey old steam train engine", "gray", "old steam train", "an orange old steam train engine"),
        ("a red and red cat", None, "", ""),
        ("reddish, scarlet, colored", None, "", ""),
        ("BLACKBOARD", None, "", ""),
    ],
)
def test_colour_words(caption, color, noun, swapped):
    found = told(caption)
    if color is None:
        assert found is None
        return
    assert found is not None
    assert (found.color, found.noun, found.saying("orange")) == (color, noun, swapped)
    assert found.saying(color) == caption  # its own words, "grey" too
    assert len({found.saying(other) for other in COLORS}) == SIZE


def test_articles():
    found = told("I see an orange fish")
    assert found is not None
    assert found.saying("blue") == "I see a blue fish"
    assert [query("bell", "orange"), query("bell"), query("bells", "red"), query("arrow")] == [
        "an orange bell",
        "a bell",
        "red bells",
        "an arrow",
    ]


def test_every_glyph_tells_its_drawings_colour():
    source = Glyphs(GlyphsConfig(split="concepts", size=8, limit=200))
    found = colors._told(source, 0)
    assert len(found) == 200
    assert all(one.color == source.colors(index)[0] and one.noun for index, one in found.items())


def test_figures_by_hand(monkeypatch):
    captions = [("a red cat", "a blue dog"), ("two cats", "a Blue cat"), "broken", ("no color",), ("a red dog",)]
    gallery = [meaning("red"), meaning("red"), meaning(""), meaning("red")]  # sample 1 is red to the model
    found = dataclasses.replace(embedded(gallery, bad_count=1), index=np.array([0, 1, 3, 4]))
    outcome = opened(monkeypatch, captions, ColorsConfig(top=2))(Meaning(found))
    # "a Blue cat" scores 1, as do nine others, and "a Red cat" 2
    assert {name: (figure.value, figure.chance) for name, figure in outcome.figures.items()} == {
        "swap_accuracy": (pytest.approx(2 / 3), 1 / 11),
        "swap_pairwise": (pytest.approx(2 / 3), 1 / 2),
        # each query finds samples 0 and 1, one red and one blue; one of three queries is for blue, as one of three images
        "color_precision_at_2": (0.5, pytest.approx((1 / 3 + 2 / 3 + 2 / 3) / 3)),
    }
    assert outcome.counts == {"images": 3, "queries": 3, "nouns": 2, "unreadable": 1}


def test_a_perfect_model_and_one_that_sees_no_colour(monkeypatch):
    words = [f"a {color} {noun}" for color in COLORS for noun in ("cat", "dog", "bell")]
    found = embedded([meaning(text) for text in words])
    evaluation = opened(monkeypatch, [(text,) for text in words], ColorsConfig(top=3))
    perfect = evaluation(Meaning(found)).figures
    assert [figure.value for figure in perfect.values()] == [1, 1, 1]
    blind = evaluation(Meaning(found, blind=True)).figures
    assert [figure.value for figure in blind.values()] == [0, 0, pytest.approx(1 / 11)]
    assert blind["color_precision_at_3"].chance == pytest.approx(1 / 11)
    nothing = dataclasses.replace(found, image=np.full_like(found.image, np.nan))
    assert [figure.value for figure in evaluation(Meaning(nothing)).figures.values()][:2] == [0, 0]


def test_random_embeddings_are_at_chance(monkeypatch):
    rng = np.random.default_rng(0)
    words = [f"a {COLORS[rng.integers(4)]} {noun}" for noun in (f"thing{i}" for i in range(300))]

    class Random(FixedEncoder):
        def texts(self, texts):
            return rng.standard_normal((len(texts), 32)).astype(np.float32)

    found = [embedded(rng.standard_normal((300, 32))) for _ in range(2)]
    config = ColorsConfig(teacher="t")
    outcome = opened(monkeypatch, [(text,) for text in words], config, Random(found[0]))(Random(found[1]))
    assert tuple(outcome.figures) == color_figures(config)
    for name, figure in outcome.figures.items():
        # the swaps of an image share its own score: a standard error of about 0.02
        assert figure.value == pytest.approx(figure.chance, abs=0.06), name


def test_against_a_teacher(monkeypatch):
    words = [f"a {color} {noun}" for color in ("red", "green") for noun in ("cat", "dog", "bell")]
    found = embedded([meaning(text) for text in words])
    config = ColorsConfig(top=3, teacher="t")
    evaluation = opened(monkeypatch, [(text,) for text in words], config, Meaning(found))
    same = evaluation(Meaning(found))
    assert {name: figure.value for name, figure in same.figures.items()} == {
        "swap_accuracy": 1,
        "swap_pairwise": 1,
        "color_precision_at_3": 1,
        "teacher_swap_accuracy": 1,
        "teacher_swap_pairwise": 1,
        "teacher_color_precision_at_3": 1,
        "color_overlap_at_3": 1,
        "noun_overlap_at_3": 1,
        "color_minus_noun_at_3": 0,
    }
    # without colour every query finds the first three, red: right of red queries, and of nouns, where all are equal
    blind = evaluation(Meaning(found, blind=True)).figures
    assert blind["color_overlap_at_3"].value == 0.5
    assert blind["noun_overlap_at_3"].value == 1
    assert blind["color_minus_noun_at_3"].value == -0.5
    assert (blind["color_overlap_at_3"].chance, blind["color_minus_noun_at_3"].chance) == (3 / 6, 0)
    assert blind["teacher_swap_accuracy"].value == 1


def test_a_noun_query_counts_once_for_each_of_its_colours(monkeypatch):
    class Naming(FixedEncoder):
        """Knows cats by its first axis, and dogs by `dog`."""

        def __init__(self, found, dog):
            super().__init__(found)
            self._dog = dog

        def texts(self, texts):
            return np.array([[1, 0] if "cat" in text else self._dog for text in texts], np.float32)

    captions = [("a red cat",), ("a blue cat",), ("a red dog",)]
    found = embedded([[1, 0], [0.9, 0], [0, 1]])
    config = ColorsConfig(top=1, teacher="t")
    figures = opened(monkeypatch, captions, config, Naming(found, [0, 1]))(Naming(found, [1, 0])).figures
    assert figures["noun_overlap_at_1"].value == pytest.approx(2 / 3)  # "a cat" twice, "a dog" once


def test_a_told_image_that_cannot_be_read_is_left_out(monkeypatch):
    captions = [("a red cat",), ("a blue cat",), ("a green cat",), ("a pink cat",)]
    found = embedded([meaning("red"), meaning("green"), meaning("pink")], bad_count=1)
    found = dataclasses.replace(found, index=np.array([0, 2, 3]))
    outcome = opened(monkeypatch, captions, ColorsConfig(top=1))(Meaning(found))
    assert outcome.figures["swap_accuracy"].value == 1
    assert outcome.figures["color_precision_at_1"].value == 3 / 4  # nothing is blue
    assert outcome.counts == {"images": 3, "queries": 4, "nouns": 1, "unreadable": 1}


def test_only_the_first_samples_are_read(monkeypatch):
    words = [f"a {color} cat" for color in COLORS]
    found = embedded([meaning(text) for text in words[:5]])
    outcome = opened(monkeypatch, [(text,) for text in words], ColorsConfig(top=3, limit=5))(Meaning(found))
    assert outcome.counts["images"] == outcome.counts["queries"] == 5


@pytest.mark.parametrize(
    ("captions", "config", "message"),
    [
        ([("a cat",)] * 3, ColorsConfig(), "0 images of source 'memory' have a caption that tells their colour"),
        ([("a red cat",)] * 20, ColorsConfig(), "20 images .* the first 20 of so few say nothing"),
        ([("it is red",)] * 30, ColorsConfig(), "no caption of source 'memory' names what has the colour"),
        ([("a red cat",)] * 30, ColorsConfig(top=0), "top 0: give a number of results of at least 1"),
    ],
)
def test_refusals(monkeypatch, captions, config, message):
    with pytest.raises(ValueError, match=message):
        opened(monkeypatch, captions, config)
