"""Effective robustness: the line by hand, known models on it, and two sources."""

import dataclasses

import numpy as np
import pytest
from scipy.special import expit, logit

from clip_jax.data.digits import DigitsConfig
from clip_jax.evals import zero_shot
from clip_jax.evals.protocol import is_share
from clip_jax.evals.robustness import BASELINES, ROBUSTNESS_FIGURES, Robustness, RobustnessConfig, expected
from tests.evals.memory import FixedEncoder, Memory, embedded

DIGITS = RobustnessConfig(source=DigitsConfig(), shifted=DigitsConfig(), classes_file="", templates=("{}",))


def test_the_line_is_that_of_logits():
    plain = np.array([0.6, 0.7, 0.8])
    line = tuple(zip(100 * plain, 100 * expit(1.1 * logit(plain) - 0.5), strict=True))
    assert expected(0.9, line) == pytest.approx(float(expit(1.1 * logit(0.9) - 0.5)))
    assert (expected(0.0, line), expected(1.0, line)) == (0, 1)


@pytest.mark.parametrize("name", BASELINES)
def test_standard_models_have_none(name):
    rest = [y / 100 - expected(x / 100, BASELINES[name]) for x, y in BASELINES[name]]
    assert np.abs(rest).max() < 0.035
    assert np.mean(rest) == pytest.approx(0, abs=1e-3)


def test_clips_own_figures():
    """OpenAI's ViT-B/32 has 63.3% and 55.93%: far above the line, as its paper says."""
    assert 0.5593 - expected(0.633, BASELINES["imagenet_v2"]) == pytest.approx(0.06, abs=0.01)


def test_two_sources():
    names = [str(number) for number in range(10)]
    rows = dict(zip(Robustness(DIGITS)._plain._classes, np.eye(10).tolist(), strict=True))
    labels = np.array([0, 1, 2, 3, 3])
    found = dataclasses.replace(embedded(np.eye(10)[[0, 1, 2, 3, 4]].tolist()), label=labels)
    outcome = Robustness(DIGITS)(FixedEncoder(found, rows))
    assert len(names) == len(rows)
    assert tuple(outcome.figures) == ROBUSTNESS_FIGURES
    assert outcome.figures["top1"].value == outcome.figures["shifted_top1"].value == pytest.approx(0.8)
    above = 0.8 - expected(0.8, BASELINES["imagenet_v2"])
    assert outcome.figures["effective_robustness"].value == pytest.approx(above)
    assert outcome.counts == {"images": 10, "unreadable": 0}
    assert not is_share("effective_robustness")


@pytest.mark.parametrize(
    ("classes", "file", "refused"),
    [
        (("cat", "dog"), "", False),
        (("dog", "cat"), "", True),
        (("cat", "dog", "cow"), "", True),
        (("n00000002", "n00000001"), "names.txt", True),
        (("0", "1"), "names.txt", False),
    ],
)
def test_sources_of_other_classes_are_refused(monkeypatch, tmp_path, classes, file, refused):
    first = ("n00000001", "n00000002") if file else ("cat", "dog")
    sources = iter([Memory([(np.zeros((4, 4, 3), np.uint8), (), 0)], classes=one) for one in (first, classes)])
    monkeypatch.setattr(zero_shot, "open_source", lambda config: next(sources))
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    config = dataclasses.replace(DIGITS, classes_file=file and str(tmp_path / file))
    if refused:
        with pytest.raises(ValueError, match="source and shifted have other classes, first "):
            Robustness(config)
    else:
        Robustness(config)


def test_refusals():
    with pytest.raises(ValueError, match="no baselines 'x'; there are imagenet_v2, imagenet_sketch"):
        Robustness(dataclasses.replace(DIGITS, baselines="x"))
