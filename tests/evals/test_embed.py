"""The encoder: the same rows on any mesh and with any batch size, and a count of what could not be read."""

import dataclasses

import jax
import numpy as np
import pytest

from clip_jax.evals.embed import Encoder, eval_target, gather_rows, normal_caption_key
from clip_jax.models.clip import init_params
from clip_jax.tokenizer import Tokenizer
from tests.evals.memory import Memory
from tests.models import reference
from tests.models.test_towers import normalized

READABLE = [0, 1, 2, 4, 5, 6, 8, 9, 10]
IMAGES = np.random.default_rng(0).integers(0, 256, (11, 16, 16, 3)).astype(np.uint8)
CAPTIONS = [
    ("one",),
    ("two", "a pair"),
    ("three", " "),
    (),
    ("one",),
    ("five", "FIVE", "5"),
    ("six",),
    (),
    ("",),
    ("nine",),
    ("X",),
]
SOURCE = Memory(
    [
        (image, texts, None if i == 9 else i % 3) if i in READABLE else f"broken {i}"
        for i, (image, texts) in enumerate(zip(IMAGES, CAPTIONS, strict=True))
    ],
    classes=("a", "b", "c"),
)
SAID = [(READABLE.index(i), text) for i in READABLE for text in CAPTIONS[i] if text.strip()]


@pytest.fixture(scope="module")
def wordy(small):
    """The small model with the tokenizer's vocabulary, and its parameters."""
    config = dataclasses.replace(small, text_cfg=dataclasses.replace(small.text_cfg, vocab_size=Tokenizer.vocab_size))
    return config, jax.jit(lambda key: init_params(config, key))(jax.random.key(1))


@pytest.fixture(scope="module")
def on_one_device(wordy, mesh1):
    return Encoder(*wordy, mesh1, batch_size=4).source(SOURCE)


def test_rows_equal_numpy(wordy, on_one_device):
    config, params = wordy
    image = reference.image_embeddings(config, params, normalized(config, IMAGES[READABLE]))
    np.testing.assert_allclose(on_one_device.image, image, atol=1e-5)
    tokens = Tokenizer(8)([text for _, text in SAID])
    np.testing.assert_allclose(on_one_device.caption, reference.text_embeddings(config, params, tokens), atol=1e-5)


def test_unreadable_samples_are_left_out_and_counted(on_one_device):
    found = on_one_device
    np.testing.assert_array_equal(found.index, READABLE)
    np.testing.assert_array_equal(found.label, [-1 if i == 9 else i % 3 for i in READABLE])
    np.testing.assert_array_equal(found.owner, [owner for owner, _ in SAID])
    np.testing.assert_array_equal(found.key, np.array([normal_caption_key(text) for _, text in SAID], np.uint64))
    assert found.bad_count == 2
    assert [(bad.index, bad.uid, bad.shard, bad.reason) for bad in found.bad] == [
        (3, SOURCE.uid(3), "part 0", "broken 3"),
        (7, SOURCE.uid(7), "part 1", "broken 7"),
    ]


# 11 samples in 11 batches, 2 and 1; on eight devices 3 is rounded up to 8
@pytest.mark.parametrize(("devices", "batch_size"), [(1, 1), (8, 3), (8, 16)])
def test_mesh_and_batch_size_change_nothing(wordy, mesh1, mesh8, on_one_device, devices, batch_size):
    found = Encoder(*wordy, {1: mesh1, 8: mesh8}[devices], batch_size=batch_size).source(SOURCE)
    for field in dataclasses.fields(found):
        ours, expected = getattr(found, field.name), getattr(on_one_device, field.name)
        if field.name in ("image", "caption"):
            np.testing.assert_allclose(ours, expected, atol=1e-6)
        else:
            np.testing.assert_array_equal(ours, expected)


def test_limits_and_images_alone(wordy, mesh8, on_one_device):
    encoder = Encoder(*wordy, mesh8, batch_size=8)
    found = encoder.source(SOURCE, captions=False, limit=5)
    np.testing.assert_array_equal(found.index, [0, 1, 2, 4])
    np.testing.assert_allclose(found.image, on_one_device.image[:4], atol=1e-6)
    assert (len(found.caption), len(found.owner), len(found.key), found.bad_count) == (0, 0, 0, 1)
    assert found.caption.shape == (0, 16)
    assert len(encoder.source(SOURCE, captions=False, limit=100).index) == len(READABLE)


def test_texts_and_scale(wordy, mesh8, on_one_device):
    encoder = Encoder(*wordy, mesh8, batch_size=8)
    np.testing.assert_allclose(encoder.texts([text for _, text in SAID]), on_one_device.caption, atol=1e-6)
    assert encoder.texts([]).shape == (0, 16)
    assert encoder.scale() == pytest.approx(1 / 0.07, rel=1e-6)


def test_what_the_model_wants_of_images(small):
    small = dataclasses.replace(small, text_cfg=dataclasses.replace(small.text_cfg, vocab_size=Tokenizer.vocab_size))
    target = eval_target(small)
    assert (target.image_size, target.tokenizer.context_length) == (16, 8)
    squash = dataclasses.replace(small.preprocess_cfg, resize_mode="squash", interpolation="bilinear", fill_color=9)
    target = eval_target(dataclasses.replace(small, preprocess_cfg=squash))
    assert (target.resize_mode, target.interpolation, target.fill_color) == ("squash", "bilinear", 9)


def test_normal_caption_keys():
    assert normal_caption_key(" A  cat\n") == normal_caption_key("a cat") != normal_caption_key("a cat.")
    assert 0 <= normal_caption_key("\udcff") < 2**64  # broken text has one, too


def test_one_process_has_all_rows():
    rows = np.arange(6).reshape(3, 2)
    assert gather_rows(rows) is rows
