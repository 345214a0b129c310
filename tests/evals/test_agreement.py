"""Agreement with a teacher: by hand, against SciPy and sets, at chance, with a real teacher, and what it refuses."""

import dataclasses
import math

import jax
import numpy as np
import pytest
import scipy.stats

import clip_jax
from clip_jax import ranking
from clip_jax.evals import agreement, protocol
from clip_jax.evals.agreement import Agreement, AgreementConfig, agreement_figures
from clip_jax.evals.embed import Encoder
from clip_jax.interop.write import TARGETS
from clip_jax.loading import load_encoder
from clip_jax.tokenizer import Tokenizer
from tests.conftest import SMALL
from tests.evals.memory import FixedEncoder, Memory, embedded
from tests.test_model import rough

EYE = np.eye(4)
CONFIG = AgreementConfig(teacher="t", top=2)


def opened(monkeypatch, teacher, config: AgreementConfig = CONFIG) -> Agreement:
    entry = (np.zeros((4, 4, 3), np.uint8), ("a",), None)
    monkeypatch.setattr(agreement, "open_source", lambda config: Memory([entry]))
    return Agreement(config, lambda name: teacher)


def values(outcome) -> dict[str, float]:
    return {name: figure.value for name, figure in outcome.figures.items()}


def random_found(seed: int, *, images: int = 60, queries: int = 40, texts: int = 40, classes: int = 0):
    """Random embeddings; which caption says what, and the labels, are the same for all seeds."""
    rng, same = np.random.default_rng(seed), np.random.default_rng(0)
    owners = sorted(same.permutation(images)[:queries].tolist())
    captions = [(i, f"text {same.integers(texts)}", rng.standard_normal(8)) for i in owners]
    words = {text: row for _, text, row in captions}
    captions = [(i, text, words[text]) for i, text, _ in captions]
    label = same.integers(classes, size=images).tolist() if classes else ()
    return embedded(rng.standard_normal((images, 8)), captions, label=label)


def test_by_hand(monkeypatch):
    gallery = [[4, 1], [3, 2], [2, 3], [1, 4]]
    teacher = embedded(gallery, [(0, "right", [1, 0]), (2, "up", [0, 1])])
    student = embedded(gallery, [(0, "right", [0.9, 0.2]), (2, "up", [0.9, 0.1])])
    outcome = opened(monkeypatch, FixedEncoder(teacher))(FixedEncoder(student))
    # "right": 0, 1 in both; "up": 3, 2 against 0, 1, where tau is -4 / 5
    assert values(outcome) == {"overlap_at_2": 0.5, "rbo": pytest.approx(0.5), "kendall_tau": pytest.approx(0.5 - 0.4)}
    assert outcome.figures["overlap_at_2"].chance == 2 / 4
    assert outcome.counts == {"images": 4, "queries": 2, "unreadable": 0}


def test_precision_by_hand(monkeypatch):
    gallery = [[4, 1], [3, 2], [2, 3], [1, 4]]
    captions = [(0, "a cat", [1, 0]), (1, "A  cat", [1, 0]), (2, "one dog", [0, 1]), (3, "x", [0, 1])]
    teacher = embedded(gallery, captions)
    student = embedded(gallery, [(owner, text, [0, 1]) for owner, text, _ in captions])
    outcome = opened(monkeypatch, FixedEncoder(teacher))(FixedEncoder(student))
    # only "a cat" has two images: 0 and 1, of which the teacher finds both and the student none
    assert outcome.counts["queries"] == 3
    found = {name: (figure.value, figure.chance) for name, figure in outcome.figures.items()}
    assert found["precision_at_2"] == (0, 2 / 4)
    assert found["teacher_precision_at_2"] == (1, 2 / 4)
    # a label stands for a caption: "one dog" finds 2 and 3, "x" too
    labelled = [dataclasses.replace(one, label=np.array([0, 0, 1, 1])) for one in (teacher, student)]
    outcome = opened(monkeypatch, FixedEncoder(labelled[0]))(FixedEncoder(labelled[1]))
    assert outcome.figures["precision_at_2"].value == pytest.approx(2 / 3)
    assert outcome.figures["teacher_precision_at_2"].value == 1


@pytest.mark.parametrize("chunk", [7, 1024])
def test_equals_scipy_and_sets(monkeypatch, chunk):
    monkeypatch.setattr(protocol, "_CHUNK", chunk)
    k, teacher, student = 5, random_found(1, texts=25, classes=4), random_found(2, texts=25, classes=4)
    outcome = opened(monkeypatch, FixedEncoder(teacher), AgreementConfig(teacher="t", top=k))(FixedEncoder(student))
    first = {int(key): row for row, key in reversed(list(enumerate(teacher.key)))}
    overlaps, taus, right, relevant = [], [], ([], []), []
    for key, row in first.items():
        lists = []
        for found in (student, teacher):
            scores = {i: float(found.image[i] @ found.caption[row]) for i in range(60)}
            lists.append(sorted(scores, key=scores.__getitem__, reverse=True)[:k])
        union = sorted({*lists[0], *lists[1]})
        places = [[best.index(item) if item in best else k for item in union] for best in lists]
        overlaps.append(len({*lists[0]} & {*lists[1]}) / k)
        taus.append(scipy.stats.kendalltau(*places).statistic)
        label = teacher.label[teacher.owner[row]]
        true = {int(i) for i in teacher.owner[teacher.key == key]} | {*np.flatnonzero(teacher.label == label).tolist()}
        relevant.append(len(true))
        for hits, best in zip(right, lists, strict=True):
            hits.append(len(true & {*best}) / k)
    assert min(relevant) > 1
    found = values(outcome)
    assert outcome.counts["queries"] == len(first) < 40
    assert found["overlap_at_5"] == pytest.approx(np.mean(overlaps))
    assert found["kendall_tau"] == pytest.approx(np.mean(taus))
    assert found["precision_at_5"] == pytest.approx(np.mean(right[0]))
    assert found["teacher_precision_at_5"] == pytest.approx(np.mean(right[1]))
    assert outcome.figures["precision_at_5"].chance == pytest.approx(np.mean(relevant) / 60)
    assert set(found) == set(agreement_figures(AgreementConfig(teacher="t", top=k)))


def test_unrelated_models_are_at_chance_and_a_model_agrees_with_itself(monkeypatch):
    teacher, student = (random_found(seed, images=200, queries=200, texts=10**9) for seed in (3, 4))
    evaluation = opened(monkeypatch, FixedEncoder(teacher), AgreementConfig(teacher="t"))
    assert values(evaluation(FixedEncoder(teacher))) == {
        "overlap_at_20": 1,
        "rbo": pytest.approx(1),
        "kendall_tau": pytest.approx(1),
    }
    for name, figure in evaluation(FixedEncoder(student)).figures.items():
        assert figure.value == pytest.approx(figure.chance, abs=0.03), name


@pytest.mark.parametrize("row", [0.1, math.nan], ids=["constant", "nan"])
def test_a_collapsed_student_is_at_chance(monkeypatch, row):
    teacher = random_found(5, images=200, queries=200, texts=10**9)
    flat = dataclasses.replace(teacher, image=np.full((200, 8), row, np.float32))
    outcome = opened(monkeypatch, FixedEncoder(teacher), AgreementConfig(teacher="t"))(FixedEncoder(flat))
    assert outcome.figures["overlap_at_20"].value == pytest.approx(0.1, abs=0.03)


def test_written_queries(monkeypatch):
    gallery = [[4, 1], [3, 2], [2, 3], [1, 4]]
    found = embedded(gallery, [(0, "a cat", [0, 0]), (1, "a cat", [0, 0]), (2, "a dog", [0, 0])], label=[0, 0, 1, 1])
    config = AgreementConfig(teacher="t", top=2, queries=("a bird", "A cat", "a cat"))
    rows = {"a bird": [0, 1], "A cat": [1, 0], "a cat": [1, 0]}
    evaluation = opened(monkeypatch, FixedEncoder(found, rows), config)
    outcome = evaluation(FixedEncoder(found, rows | {"a bird": [1, 0]}))
    assert outcome.counts["queries"] == 2  # equal texts are asked once
    assert values(outcome)["overlap_at_2"] == 0.5
    assert values(outcome)["precision_at_2"] == 1  # of "a cat" alone: no caption says "a bird"


def test_images_are_known_by_their_place_in_the_source(monkeypatch):
    """The student could not read sample 0, which is none of the teacher's first."""
    gallery, captions = [[0, 1], [1, 2], [4, 1], [3, 2]], [(2, "x", [1, 0]), (3, "y", [1, 0.1])]
    whole = embedded(gallery, captions)
    part = embedded(gallery[1:], [(owner - 1, text, row) for owner, text, row in captions], bad_count=1)
    part = dataclasses.replace(part, index=np.array([1, 2, 3]))
    outcome = opened(monkeypatch, FixedEncoder(whole))(FixedEncoder(part))
    assert values(outcome)["overlap_at_2"] == 1
    assert outcome.counts == {"images": 3, "queries": 2, "unreadable": 1}
    assert outcome.figures["rbo"].chance == pytest.approx(ranking.chance_rbo(2, 3))


def test_the_teacher_is_asked_once(monkeypatch):
    asked = []

    class Counted(FixedEncoder):
        def source(self, *args, **options):
            asked.append(options)
            return super().source(*args, **options)

    evaluation = opened(monkeypatch, Counted(random_found(1)), AgreementConfig(teacher="t", limit=50))
    for seed in (2, 3):
        evaluation(FixedEncoder(random_found(seed)))
    assert asked == [{"limit": 50}]


@pytest.mark.parametrize(
    ("config", "found", "message"),
    [
        (AgreementConfig(teacher=""), embedded(EYE), "agreement needs a teacher"),
        (AgreementConfig(teacher="t", top=1), embedded(EYE), "top 1: give a number of results of at least 2"),
        (AgreementConfig(teacher="t", queries=("a", " ")), embedded(EYE), "queries hold ' '"),
        (AgreementConfig(teacher="t"), embedded(EYE), "gave 4 readable images; the first 20 of so few say nothing"),
        (CONFIG, embedded(EYE), "gave no readable image with a caption; give `queries`"),
    ],
)
def test_refusals(monkeypatch, config, found, message):
    with pytest.raises(ValueError, match=message):
        opened(monkeypatch, FixedEncoder(found), config)


def test_no_query_in_common(monkeypatch):
    found = [embedded(EYE, [(0, text, EYE[0])]) for text in "ab"]
    with pytest.raises(ValueError, match="no query in common"):
        opened(monkeypatch, FixedEncoder(found[0]))(FixedEncoder(found[1]))


@pytest.fixture
def quickly():
    """Programs compiled with little care: most of the time would go into that."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.usefixtures("quickly")
def test_a_real_teacher(monkeypatch, mesh1, tmp_path):
    """Opened from a folder, with an image size, a context and an embedding of its own; clip_jax.load says what it finds."""
    text = dataclasses.replace(SMALL.text_cfg, vocab_size=Tokenizer.vocab_size, layers=1)
    student = dataclasses.replace(SMALL, text_cfg=text, vision_cfg=dataclasses.replace(SMALL.vision_cfg, layers=1))
    teacher = dataclasses.replace(
        student,
        embed_dim=24,
        vision_cfg=dataclasses.replace(student.vision_cfg, image_size=24),
        text_cfg=dataclasses.replace(text, context_length=6),
    )
    TARGETS["clip_jax"](tmp_path, teacher, rough(teacher), {})
    texts = [f"{word} {word}" for word in ("cat", "dog", "bird", "house", "tree", "sea", "car", "sun", "key")]
    pictures = np.random.default_rng(0).integers(0, 256, (len(texts), 20, 20, 3)).astype(np.uint8)
    source = Memory([(image, (text,), None) for image, text in zip(pictures, texts, strict=True)])
    monkeypatch.setattr(agreement, "open_source", lambda config: source)
    encoder = Encoder(student, rough(student), mesh1)
    outcome = Agreement(AgreementConfig(teacher=str(tmp_path), top=3), load_encoder)(encoder)
    found = encoder.source(source)
    scores = clip_jax.load(tmp_path).similarity(list(pictures), texts).T, found.caption @ found.image.T
    best = [ranking.top_lists(each, 3) for each in scores]
    assert values(outcome) == {
        "overlap_at_3": pytest.approx(ranking.overlap(*best).mean()),
        "rbo": pytest.approx(ranking.rbo(*best).mean()),
        "kendall_tau": pytest.approx(ranking.kendall(*best).mean()),
    }
    assert 0 < values(outcome)["overlap_at_3"] < 1
