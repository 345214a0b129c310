"""Zero-shot classification: class embeddings and figures by hand, and what it refuses."""

import numpy as np
import pytest
import sklearn.metrics

from clip_jax.evals import zero_shot
from clip_jax.evals.prompts import class_embeddings
from clip_jax.evals.zero_shot import ZeroShot, ZeroShotConfig
from clip_jax.report.figures import headlines
from tests.evals.memory import FixedEncoder, Memory, embedded

ROWS = {"a cat": [1.0, 0.0], "the cat": [0.6, 0.8], "a dog": [0.0, 1.0], "the dog": [0.0, 1.0]}
TEMPLATES = ("a {}", "the {}")


def opened(monkeypatch, config: ZeroShotConfig, classes: tuple[str, ...]) -> ZeroShot:
    monkeypatch.setattr(
        zero_shot, "open_source", lambda config: Memory([(np.zeros((4, 4, 3), np.uint8), ("a",), 0)], classes)
    )
    return ZeroShot(config)


def test_class_embeddings_by_hand():
    found = class_embeddings(FixedEncoder(embedded(np.zeros((0, 2))), ROWS).texts, ("cat", "dog"), TEMPLATES)
    mean = np.array([0.8, 0.4])
    np.testing.assert_allclose(found, [mean / np.sqrt(0.8), [0, 1]], rtol=1e-6)


def test_figures_by_hand(monkeypatch):
    images = [[1, 0], [0, 1], [0.1, 1], [1, 0.1], [1, 0]]
    found = embedded(images, label=[0, 1, 0, 0, -1], bad_count=2)  # the last one has no label
    evaluation = opened(monkeypatch, ZeroShotConfig(templates=TEMPLATES), ("cat", "dog"))
    outcome = evaluation(FixedEncoder(found, ROWS))
    assert {name: (figure.value, figure.chance) for name, figure in outcome.figures.items()} == {
        "top1": (3 / 4, 1 / 2),
        "mean_per_class": (pytest.approx((2 / 3 + 1) / 2), 1 / 2),
    }
    assert outcome.counts == {"images": 4, "classes": 2, "unreadable": 2}


def test_names_of_the_config_stand_in_for_the_sources(monkeypatch):
    evaluation = opened(monkeypatch, ZeroShotConfig(classes=("cat", "dog"), templates=TEMPLATES), ("n01", "n02"))
    outcome = evaluation(FixedEncoder(embedded([[1, 0]], label=[0]), ROWS))
    assert outcome.figures["top1"].value == 1


def test_top5_from_six_classes_on(monkeypatch):
    names = tuple("abcdef")
    rows = {f"a photo of a {name}.": row for name, row in zip(names, np.eye(6), strict=True)}
    image = [[6, 5, 4, 3, 2, 1]] * 2
    outcome = opened(monkeypatch, ZeroShotConfig(), names)(FixedEncoder(embedded(image, label=[4, 5]), rows))
    found = {name: (figure.value, figure.chance) for name, figure in outcome.figures.items()}
    assert found == {"top1": (0, 1 / 6), "top5": (1 / 2, 5 / 6), "mean_per_class": (0, 1 / 6)}


def test_the_metric_that_speaks_for_a_set_comes_first(monkeypatch):
    config = ZeroShotConfig(templates=TEMPLATES, metric="mean_per_class")
    outcome = opened(monkeypatch, config, ("cat", "dog"))(FixedEncoder(embedded([[1, 0]], label=[0]), ROWS))
    assert list(outcome.figures) == ["mean_per_class", "top1"]
    assert headlines({"pets": outcome})[0].figure == "mean_per_class"


def test_names_of_classes_may_be_replaced_or_read(monkeypatch, tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("cat\ndog\n")
    configs = (
        ZeroShotConfig(classes_file=str(file), templates=TEMPLATES),
        ZeroShotConfig(rename=(("n1", "cat"), ("n2", "dog")), templates=TEMPLATES),
    )
    for config in configs:
        outcome = opened(monkeypatch, config, ("n1", "n2"))(FixedEncoder(embedded([[0, 1]], label=[1]), ROWS))
        assert outcome.figures["top1"].value == 1
    with pytest.raises(FileNotFoundError, match=r"absent.txt is not there; give a text file"):
        opened(monkeypatch, ZeroShotConfig(classes_file=str(tmp_path / "absent.txt")), ("n1", "n2"))
    with pytest.raises(ValueError, match=r"rename has 'n3', which is no class of source 'memory': n1, n2"):
        opened(monkeypatch, ZeroShotConfig(rename=(("n3", "cat"),)), ("n1", "n2"))
    with pytest.raises(ValueError, match="more than one of classes, classes_file and rename"):
        opened(monkeypatch, ZeroShotConfig(rename=(("n1", "cat"),), classes=("a", "b")), ("n1", "n2"))


def test_figures_are_scikit_learns(monkeypatch):
    rng, names = np.random.default_rng(0), tuple("abcdefg")
    images, labels = rng.standard_normal((200, 8)), np.minimum(rng.geometric(0.3, 200) - 1, 6)  # not one size
    rows = {
        f"a photo of a {name}.": row / np.linalg.norm(row)
        for name, row in zip(names, rng.standard_normal((7, 8)), strict=True)
    }
    found = embedded(images, label=labels.tolist())
    outcome = opened(monkeypatch, ZeroShotConfig(), names)(FixedEncoder(found, rows))
    scores = images.astype(np.float32) @ np.array(list(rows.values()), np.float32).T
    values = {name: figure.value for name, figure in outcome.figures.items()}
    guess = scores.argmax(axis=1)
    assert len(np.unique(np.bincount(labels))) > 2
    assert values["top1"] == pytest.approx(sklearn.metrics.accuracy_score(labels, guess))
    assert values["mean_per_class"] == pytest.approx(sklearn.metrics.balanced_accuracy_score(labels, guess))
    assert values["top5"] == pytest.approx(sklearn.metrics.top_k_accuracy_score(labels, scores, k=5, labels=range(7)))


def test_a_collapsed_model_is_right_about_nothing(monkeypatch):
    rows = {name: [1.0, 0.0] for name in ROWS}
    outcome = opened(monkeypatch, ZeroShotConfig(templates=TEMPLATES), ("cat", "dog"))(
        FixedEncoder(embedded([[1, 0]] * 4, label=[0, 1, 0, 1]), rows)
    )
    assert {figure.value for figure in outcome.figures.values()} == {0.0}


@pytest.mark.parametrize(
    ("config", "classes", "message"),
    [
        (ZeroShotConfig(), (), "source 'memory' has no labels"),
        (ZeroShotConfig(classes=("a",)), ("x", "y"), "got 1 class names for source 'memory', whose labels have 2"),
        (ZeroShotConfig(templates=()), ("x", "y"), "give at least one"),
        (ZeroShotConfig(templates=("a {}", "a cat")), ("x", "y"), "each with {} where the class name goes"),
    ],
)
def test_refusals(monkeypatch, config, classes, message):
    with pytest.raises(ValueError, match=message):
        opened(monkeypatch, config, classes)


def test_nothing_to_classify(monkeypatch):
    evaluation = opened(monkeypatch, ZeroShotConfig(templates=TEMPLATES), ("cat", "dog"))
    with pytest.raises(ValueError, match="no readable labelled image"):
        evaluation(FixedEncoder(embedded([[1, 0]]), ROWS))
