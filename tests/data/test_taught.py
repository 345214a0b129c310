"""What the training stream brings for teachers: the embedding of the very sample, caption and view that the student gets."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from clip_jax.data.digits import Digits, DigitsConfig
from clip_jax.data.glyphs import Glyphs, GlyphsConfig
from clip_jax.data.images import Augmentation
from clip_jax.data.pipeline import ReadConfig, TrainStream
from clip_jax.data.source import BadSample, Sample
from clip_jax.data.taught import Target, Taught, check_generated
from clip_jax.data.teacher_store import TeacherStore
from clip_jax.data.views import apply_view
from clip_jax.evals.embed import eval_target
from clip_jax.model import Model
from clip_jax.models.clip import init_params
from tests.small_store import SAMPLES, write_store
from tests.small_teacher import TEACHER

SIZE = 16  # of the student's images and the teacher's
VIEWS = Augmentation(scale=(0.3, 1.0), flip=0.5, color_jitter=(0.4, 0.4, 0.4, 0.1), color_jitter_prob=0.8)
PLAIN = ReadConfig(augmentation=None, workers=0)
NEAR = {"atol": 2.5e-3}  # of unit vectors that are stored in bf16


@pytest.fixture(scope="module")
def model() -> Model:
    params = jax.jit(lambda key: init_params(TEACHER, key))(jax.random.key(0))
    return Model(TEACHER, jax.device_get(params), dtype="float32", batch_size=16)


@pytest.fixture(scope="module")
def source() -> Glyphs:
    return Glyphs(SAMPLES)


@pytest.fixture(scope="module")
def plain(model: Model, tmp_path_factory: pytest.TempPathFactory) -> TeacherStore:
    return TeacherStore(write_store(tmp_path_factory.mktemp("stores") / "plain", model))


@pytest.fixture(scope="module")
def viewed(model: Model, tmp_path_factory: pytest.TempPathFactory) -> TeacherStore:
    folder = tmp_path_factory.mktemp("stores") / "viewed"
    return TeacherStore(write_store(folder, model, augmentation=VIEWS, views=3, dtype="float32"))


@pytest.fixture(scope="module")
def target(model: Model) -> Target:
    return eval_target(model.config)


def batches(source: Any, target: Target, taught: Taught, config: ReadConfig = PLAIN, steps: int = 2) -> list[Any]:
    stream = TrainStream(source, target, config, seed=3, batch_size=8, taught=taught)
    try:
        return [next(stream) for _ in range(steps)]
    finally:
        stream.close()


def assert_taught_by(model: Model, batch: Any, told: dict[str, np.ndarray], tolerance: dict[str, float]) -> None:
    for found, wanted in (
        (told["image"], model.encode_image(batch["image"])),
        (told["text"], model.encode_text(batch["text"])),
    ):
        np.testing.assert_allclose(found, wanted, **tolerance)
        assert not np.allclose(np.roll(found, 1, axis=0), wanted, **tolerance)  # samples differ by more than that


@pytest.mark.parametrize("workers", [0, 1])
def test_stored_rows_are_what_the_teacher_says_of_the_batch(
    workers: int, model: Model, source: Glyphs, plain: TeacherStore, target: Target
) -> None:
    config = dataclasses.replace(PLAIN, workers=workers)
    for batch, bad in batches(source, target, Taught(stores={"t": plain}), config):
        assert not bad
        assert set(batch["teachers"]) == {"t"}
        assert_taught_by(model, batch, batch["teachers"]["t"], NEAR)
        rows = plain.rows(batch["uid"])
        np.testing.assert_array_equal(batch["teachers"]["t"]["image"], plain.image(rows))
        assert batch["teachers"]["t"]["text"].dtype == np.float32


def test_the_view_behind_the_stored_row_is_done_again(
    model: Model, source: Glyphs, viewed: TeacherStore, target: Target
) -> None:
    config = dataclasses.replace(PLAIN, augmentation=VIEWS)
    seen = set()
    for batch, _ in batches(source, target, Taught(stores={"t": viewed}), config, steps=3):
        assert_taught_by(model, batch, batch["teachers"]["t"], {"atol": 1e-5})
        rows = viewed.rows(batch["uid"])
        for row, image in zip(rows, batch["teachers"]["t"]["image"], strict=True):
            numbers = [n for n in range(3) if np.array_equal(viewed.image(np.array([row]), n)[0], image)]
            seen |= set(numbers)
            assert numbers
    assert seen == {0, 1, 2}


def test_two_stores_and_a_live_teacher_get_the_same_view(
    model: Model, source: Glyphs, plain: TeacherStore, viewed: TeacherStore, target: Target
) -> None:
    live = dataclasses.replace(target, image_size=2 * SIZE)
    taught = Taught(stores={"plain": plain, "viewed": viewed}, live={"live": live})
    for training in (None, Augmentation(scale=(0.9, 1.0))):  # what is replayed decides, whatever training would draw
        assert taught.min_side(target, training) == VIEWS.min_side(2 * SIZE)
    assert dataclasses.replace(taught, stores={"plain": plain}).min_side(target, None) == 2 * SIZE
    config = dataclasses.replace(PLAIN, augmentation=VIEWS)
    by_uid = {source.uid(index): index for index in range(len(source))}
    ((batch, _),) = batches(source, target, taught, config, steps=1)
    assert_taught_by(model, batch, batch["teachers"]["viewed"], {"atol": 1e-5})
    rows = plain.rows(batch["uid"])
    np.testing.assert_array_equal(batch["teachers"]["plain"]["image"], plain.image(rows))  # of the whole image
    np.testing.assert_array_equal(
        batch["teachers"]["plain"]["text"].argmax(1), batch["teachers"]["viewed"]["text"].argmax(1)
    )
    told = batch["teachers"]["live"]
    assert told["image"].shape == (8, 2 * SIZE, 2 * SIZE, 3)
    np.testing.assert_array_equal(told["text"], batch["text"])
    for number, uid in enumerate(batch["uid"].tolist()):
        pixels, row = source[by_uid[uid]].image, int(viewed.rows(np.array([uid], np.uint64))[0])
        applied = [apply_view(pixels, 2 * SIZE, viewed.view(row, n), VIEWS.interpolation) for n in range(3)]
        same = [n for n in range(3) if np.array_equal(applied[n], told["image"][number])]
        assert any(
            np.array_equal(apply_view(pixels, SIZE, viewed.view(row, n), VIEWS.interpolation), batch["image"][number])
            for n in same
        )


def test_a_view_that_is_drawn_is_the_same_for_a_live_teacher(source: Glyphs, target: Target) -> None:
    live = Taught(live={"same": target, "larger": dataclasses.replace(target, image_size=24)})
    config = dataclasses.replace(PLAIN, augmentation=Augmentation(scale=(0.3, 1.0), flip=0.5))
    ((batch, _),), ((alone, _),) = (batches(source, target, taught, config, steps=1) for taught in (live, Taught()))
    np.testing.assert_array_equal(batch["teachers"]["same"]["image"], batch["image"])
    np.testing.assert_array_equal(batch["image"], alone["image"])  # a teacher does not change what the student sees
    np.testing.assert_array_equal(batch["text"], alone["text"])
    assert "teachers" not in alone
    # Blurred to a few blocks, the larger picture is the smaller one.
    small, large = (
        given.reshape(8, 4, side // 4, 4, side // 4, 3).mean(axis=(2, 4))
        for given, side in (
            (batch["image"].astype(float), SIZE),
            (batch["teachers"]["larger"]["image"].astype(float), 24),
        )
    )
    assert np.abs(small - large).mean() < 6


def test_augmented_images_beside_embeddings_of_plain_ones(
    model: Model, source: Glyphs, plain: TeacherStore, target: Target
) -> None:
    config = dataclasses.replace(PLAIN, augmentation=VIEWS)
    ((batch, _),) = batches(source, target, Taught(stores={"t": plain}), config, steps=1)
    ((whole, _),) = batches(source, target, Taught(stores={"t": plain}), steps=1)
    np.testing.assert_array_equal(batch["uid"], whole["uid"])
    np.testing.assert_array_equal(batch["teachers"]["t"]["image"], whole["teachers"]["t"]["image"])
    assert not np.array_equal(batch["image"], whole["image"])


class _More:
    """Drawings, of which every fourth is one that the store does not have, and every fifth cannot be read."""

    classes = ()

    def __init__(self, inner: Glyphs):
        self._inner, self.name = inner, inner.name

    def __len__(self) -> int:
        return len(self._inner)

    def __getitem__(self, index: int) -> Sample:
        if index % 5 == 1:
            raise BadSample("torn")
        return dataclasses.replace(self._inner[index], uid=self.uid(index))

    def shard(self, index: int) -> str:
        return f"part-{index % 4}"

    def uid(self, index: int) -> int:
        return index if index % 4 == 0 else self._inner.uid(index)


def test_samples_that_the_store_does_not_have_are_replaced_and_counted(
    model: Model, source: Glyphs, plain: TeacherStore, target: Target
) -> None:
    found = batches(_More(source), target, Taught(stores={"t": plain}), steps=5)
    reasons: dict[str, set[str]] = {}
    for batch, bad in found:
        assert batch["replaced"].sum() == len(bad)
        assert (plain.rows(batch["uid"]) >= 0).all()
        assert_taught_by(model, batch, batch["teachers"]["t"], NEAR)
        for one in bad:
            reasons.setdefault(one.reason, set()).add(one.shard)
    assert reasons["teacher 't' has no embedding of it"] == {"part-0"}
    assert "torn" in reasons


def test_generated_captions_have_embeddings_and_ids_of_their_own(model: Model, target: Target, tmp_path: Path) -> None:
    config = GlyphsConfig(split="validation", limit=16, size=SIZE, synthetic=3)
    store = TeacherStore(write_store(tmp_path / "store", model, config))
    source = Glyphs(config)
    ((batch, _),) = batches(source, target, Taught(stores={"t": store}, synthetic=True), steps=1)
    told = batch["teachers"]["t"]
    assert_taught_by(model, batch, told, NEAR)
    np.testing.assert_allclose(told["synthetic"], model.encode_text(batch["synthetic"]), **NEAR)
    by_uid = {source.uid(index): source[index] for index in range(len(source))}
    for uid, ids, generated in zip(batch["uid"].tolist(), batch["text"], batch["synthetic"], strict=True):
        assert ids.tolist() in target.tokenizer(list(by_uid[uid].captions)).tolist()
        assert generated.tolist() in target.tokenizer(list(by_uid[uid].synthetic)).tolist()


def test_a_sample_without_generated_captions_gives_a_real_one_but_not_all_of_a_source(target: Target) -> None:
    class Some:
        """None of the first `none` has any; every second cannot be read."""

        name, classes = "some", ()

        def __init__(self, none: int):
            self.none = none

        def __len__(self) -> int:
            return 200

        def __getitem__(self, index: int) -> Sample:
            if index % 2:
                raise BadSample("torn")
            made = () if index < self.none else ("generated",)
            image = np.zeros((SIZE, SIZE, 3), np.uint8)
            return Sample(uid=index, image=image, captions=("real",), synthetic=made)

        def shard(self, index: int) -> str:
            return ""

        def uid(self, index: int) -> int:
            return index

    ((batch, _),) = batches(Some(100), target, Taught(synthetic=True), steps=1)
    made = [("real",) if uid < 100 else ("generated",) for uid in batch["uid"].tolist()]
    assert len(set(made)) == 2
    np.testing.assert_array_equal(batch["synthetic"], np.concatenate([target.tokenizer(text) for text in made]))
    check_generated(Some(30))  # the sixteenth has one
    with pytest.raises(ValueError, match=r"none of the first 16 samples of 'some' .*TableConfig.synthetic_key"):
        check_generated(Some(31))


def test_an_image_store_brings_no_texts_and_labels_come_with_the_samples(
    model: Model, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DigitsConfig(size=SIZE)
    monkeypatch.setattr(Digits, "__len__", lambda self: 30)
    store = TeacherStore(write_store(tmp_path / "store", model, config, captions=False))
    source = Digits(config)
    ((batch, _),) = batches(source, target, Taught(stores={"t": store}, label=True), steps=1)
    assert set(batch["teachers"]["t"]) == {"image"}
    by_uid = {source.uid(index): source[index].label for index in range(30)}
    assert batch["label"].tolist() == [by_uid[uid] for uid in batch["uid"].tolist()]
    assert batch["label"].dtype == np.int32


def test_samples_without_a_label_get_minus_one(source: Glyphs, target: Target) -> None:
    ((batch, _),) = batches(source, target, Taught(label=True), steps=1)
    assert batch["label"].tolist() == [-1] * 8
