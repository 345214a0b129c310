"""Known weaknesses, by hand."""

import pytest

from clip_jax.evals.protocol import Figure, Outcome
from clip_jax.weaknesses import weaknesses


def said(figures, counts=None, name="x"):
    found = {key: Figure(value=value, chance=chance) for key, (value, chance) in figures.items()}
    return weaknesses({name: Outcome(figures=found, counts=counts or {"images": 500, "queries": 500})})


def test_nothing_is_wanting_in_nothing():
    assert weaknesses({}) == []


def test_every_figure_is_held_against_chance():
    found = said({"text": (0.3, 0.25), "image": (0.1, 0.25), "group": (0.16, 1 / 6)}, {"examples": 400}, "winoground")
    assert found == [
        "winoground: at chance: text 30.0% (chance 25.0%), group 16.0% (chance 16.7%).",
        "winoground: below chance: image 10.0% (chance 25.0%).",
    ]


def test_the_weakest_that_was_learned():
    found = said({"top1": (0.6, 0.1)}, name="digits")
    assert found == ["The weakest above chance: digits, top-1 60.0%, 6.0 times chance."]


@pytest.mark.parametrize(
    ("figures", "sentence"),
    [
        ({"overlap_at_20": (0.7366, 0.04)}, "x: overlap@20 73.7%; the other results are not those of its teacher."),
        (
            {"swap_accuracy": (0.3, 1 / 11)},
            "x: of a picture's caption and the same with other colours, its own is the likest for 30.0% only.",
        ),
        (
            {"color_minus_noun_at_20": (-0.2, 0.0)},
            "x: asked for a colour and a thing, it differs more from its teacher than for the thing "
            "(color minus noun@20 -0.200).",
        ),
        (
            {"senses_covered_at_20": (0.45, 0.3), "teacher_senses_covered_at_20": (0.95, None)},
            "x: senses covered@20 45.0% of a word's meanings, its teacher's 95.0%.",
        ),
        (
            {"effective_robustness": (-0.2, 0.0)},
            "x: under the shift 20.0% are lost beyond what standard models of its accuracy lose.",
        ),
        (
            {"crime": (0.1, None), "crime_black": (0.2, None), "crime_with_child_indian": (0.15, None)},
            "x: people are taken for criminals, most often black: 20.0% of faces.",
        ),
        (
            {"non_human": (0.02, None), "minus_teacher_non_human_with_child_0_to_2": (0.015, 0.0)},
            "x: more people are taken for animals than by its teacher, most 0 to 2, "
            'with "a child" among the answers: +1.5 points.',
        ),
    ],
)
def test_what_protocols_are_there_to_find(figures, sentence):
    assert sentence in said(figures)


def test_what_is_well_is_not_said():
    well = {"swap_accuracy": (0.95, 1 / 11), "color_minus_noun_at_20": (0.01, 0.0), "effective_robustness": (0.1, 0.0)}
    assert [line for line in said(well) if not line.startswith("The weakest")] == []
    fair = {"crime": (0.0, None), "minus_teacher_crime": (-0.1, 0.0), "teacher_top1": (0.1, 0.1)}
    assert said(fair) == []
