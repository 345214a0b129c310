"""The linear probe: figures by hand, splits that stay, what it refuses, and a real tower on real digits."""

import dataclasses

import jax
import numpy as np
import pytest

from clip_jax.data.digits import DigitsConfig
from clip_jax.evals import linear_probe
from clip_jax.evals.embed import Embedded, Encoder
from clip_jax.evals.linear_probe import LinearProbe, LinearProbeConfig
from clip_jax.models.clip import bind, init_params
from clip_jax.tokenizer import Tokenizer
from tests.evals.memory import FixedEncoder, Memory, embedded

IMAGE = np.zeros((4, 4, 3), np.uint8)


class Two:
    """An encoder of a source to fit on and one to test on, told apart by their lengths."""

    def __init__(self, *found: Embedded):
        self._found = {len(one.image): one for one in found}

    def features(self, source: Memory, *, limit: int = 0) -> Embedded:
        return self._found[len(source)]


def opened(monkeypatch, config: LinearProbeConfig, *sources: Memory) -> LinearProbe:
    ready = iter(sources)
    monkeypatch.setattr(linear_probe, "open_source", lambda config: next(ready))
    return LinearProbe(config)


def memory(count: int, classes: tuple[str, ...] = ("cat", "dog")) -> Memory:
    return Memory([(IMAGE, ("a",), 0)] * count, classes)


def corners(count: int) -> tuple[np.ndarray, list[int]]:
    """Two classes of features, one unit apart."""
    labels = np.arange(count) % 2
    return np.stack([labels, 1 - labels], axis=1).astype(np.float32), labels.tolist()


def test_figures_by_hand(monkeypatch):
    """Four images to test on: one of the first class on the second's side, one without a label."""
    features, labels = corners(60)
    test = embedded([[0, 1], [1, 0], [1, 0], [0, 1], [1, 0]], label=[0, 1, 0, 0, -1], bad_count=2)
    config = LinearProbeConfig(test=DigitsConfig())
    probe = opened(monkeypatch, config, memory(60), memory(5))
    outcome = probe(Two(embedded(features, label=labels, bad_count=1), test))
    assert {name: (figure.value, figure.chance) for name, figure in outcome.figures.items()} == {
        "top1": (3 / 4, 1 / 2),
        "mean_per_class": (pytest.approx((2 / 3 + 1) / 2), 1 / 2),
    }
    assert outcome.counts == {"images": 4, "fitted_on": 60, "classes": 2, "unreadable": 3}


def test_a_collapsed_model_is_at_chance_or_below(monkeypatch):
    _, labels = corners(200)
    probe = opened(monkeypatch, LinearProbeConfig(), memory(200))
    outcome = probe(FixedEncoder(embedded(np.ones((200, 3)), label=labels)))
    assert outcome.figures["mean_per_class"].value <= 0.5


def test_labels_that_features_do_not_hold_are_not_learned(monkeypatch):
    """Samples to test on are not among those it is fitted on, or many weights would know them by heart."""
    rng = np.random.default_rng(0)
    found = embedded(rng.standard_normal((300, 200)), label=rng.integers(0, 2, 300).tolist())
    outcome = opened(monkeypatch, LinearProbeConfig(), memory(300))(FixedEncoder(found))
    assert outcome.figures["top1"].value < 0.65
    assert 60 < outcome.counts["images"] < 120
    assert outcome.counts["images"] + outcome.counts["fitted_on"] == 300


def test_the_same_samples_are_set_apart_however_many_there_are(monkeypatch):
    """A sample's part follows from its uid: fewer samples are split as they were among more."""
    rows = linear_probe._Labelled(np.arange(50)[:, None], np.arange(50), tuple(range(50)))
    fewer = linear_probe._Labelled(np.arange(20)[:, None], np.arange(20), tuple(range(20)))
    for whole, part in zip(rows.cut("test", 0.3), fewer.cut("test", 0.3), strict=True):
        assert whole.labels[whole.labels < 20].tolist() == part.labels.tolist()
    assert rows.cut("test", 0.3)[1].uids != rows.cut("validation", 0.3)[1].uids


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([(), ()], "source 'memory' has no labels"),
        ([("a", "b"), ("a", "c")], "have different classes: a, b, ... and a, c, ..."),
    ],
)
def test_refused_sources(monkeypatch, classes, message):
    with pytest.raises(ValueError, match=message):
        opened(monkeypatch, LinearProbeConfig(test=DigitsConfig()), *(memory(4, names) for names in classes))


@pytest.mark.parametrize("share", ["test_share", "validation_share"])
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, float("nan")])
def test_refused_shares(share, value):
    with pytest.raises(ValueError, match=f"{share} {value}: give a share between 0 and 1"):
        LinearProbeConfig(**{share: value})


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([-1] * 60, ("a", "b"), "no readable labelled image for test"),
        ([0] * 60, ("a", "b"), "are of one class"),
        ([0, 1] * 29 + [2, 2], ("a", "b", "c"), "1 classes of source 'memory' have no image to fit on .c."),
    ],
)
def test_refused_labels(monkeypatch, labels, names, message):
    config = LinearProbeConfig(test=DigitsConfig()) if 2 in labels else LinearProbeConfig()
    found = embedded(corners(60)[0], label=labels)
    if 2 in labels:  # a class that only the test has
        encoder = Two(
            dataclasses.replace(found, label=np.where(found.label == 2, 0, found.label)), embedded([[0, 1]], label=[2])
        )
        probe = opened(monkeypatch, config, memory(60, names), memory(1, names))
    else:
        encoder, probe = FixedEncoder(found), opened(monkeypatch, config, memory(60, names))
    with pytest.raises(ValueError, match=message):
        probe(encoder)


def test_a_tower_of_random_weights_tells_real_digits(small, mesh1, mesh8):
    """Far above the tenth that chance gives: its features keep the pixels. One device and eight agree."""
    config = dataclasses.replace(small, text_cfg=dataclasses.replace(small.text_cfg, vocab_size=Tokenizer.vocab_size))
    params = jax.jit(lambda key: init_params(config, key))(jax.random.key(0))
    probe = LinearProbe(LinearProbeConfig(source=DigitsConfig(size=16), limit=600))
    on_one, on_eight = (probe(Encoder(config, params, mesh, batch_size=200)) for mesh in (mesh1, mesh8))
    assert on_one.figures["top1"].value > 0.5
    assert on_eight.figures["top1"].value == pytest.approx(on_one.figures["top1"].value, abs=0.02)
    assert on_one.counts == on_eight.counts


def test_features_are_those_before_the_projection(small):
    params = jax.jit(lambda key: init_params(small, key))(jax.random.key(0))
    model = bind(small, params)
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    features = model.penultimate_features(images)
    assert features.shape == (3, small.vision_cfg.width)
    np.testing.assert_allclose(
        features @ params["visual"]["proj"]["kernel"], model.image_features(images), rtol=1e-5, atol=1e-6
    )
