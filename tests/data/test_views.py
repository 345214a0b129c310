"""Views: a stored row is the view, and the view makes the pixels that the augmentation made when it was drawn."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from clip_jax.data.images import Augmentation, augment, draw_view
from clip_jax.data.teacher_manifest import StoredViews
from clip_jax.data.views import VIEW_NUMBERS, View, apply_view

STRONG = Augmentation(
    scale=(0.05, 1.0), flip=0.5, color_jitter=(0.8, 1.2, 0.6, 0.5), color_jitter_prob=0.8, gray_scale_prob=0.2
)
CONFIGS = (Augmentation(), STRONG, dataclasses.replace(STRONG, interpolation="lanczos", ratio=(0.3, 3.0)))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(2, 300),
    width=st.integers(2, 300),
    seed=st.integers(0, 2**32),
    number=st.integers(0, 2),
    size=st.integers(1, 40),
)
def test_a_stored_row_replays_the_pixels_of_the_drawing_run(height, width, seed, number, size):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    config = CONFIGS[number]
    drawn = augment(image, size, np.random.default_rng(seed), config)
    view = draw_view(height, width, np.random.default_rng(seed), config)
    row = view.to_row()
    assert row.dtype == np.float32
    assert row.shape == (VIEW_NUMBERS,)
    assert View.from_row(row) == view
    np.testing.assert_array_equal(apply_view(image, size, View.from_row(row), config.interpolation), drawn)


@settings(max_examples=300, deadline=None)
@given(height=st.integers(2, 100_000), width=st.integers(2, 100_000), seed=st.integers(0, 2**32))
def test_the_crop_lies_on_whole_pixels_of_the_image_it_was_drawn_for(height, width, seed):
    config = Augmentation(scale=(0.01, 1.0), ratio=(0.1, 10.0))
    left, top, right, bottom = draw_view(height, width, np.random.default_rng(seed), config).box(height, width)
    assert all(edge == int(edge) for edge in (left, top, right, bottom))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def plain_augment(image: np.ndarray, size: int, rng: np.random.Generator, config: Augmentation) -> np.ndarray:
    """Straight through Pillow in whole pixels and double precision, as augmentation is defined."""
    tries, coins, factors, order = rng.random((10, 4)), rng.random(3), rng.uniform(-1, 1, 4), rng.permutation(4)
    height, width = image.shape[:2]
    for area, shape, x, y in tries:
        pixels = height * width * (config.scale[0] + area * (config.scale[1] - config.scale[0]))
        ratio = np.exp(np.log(config.ratio[0]) + shape * (np.log(config.ratio[1]) - np.log(config.ratio[0])))
        w, h = round(np.sqrt(pixels * ratio)), round(np.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            break
    else:
        pytest.skip("the centred crop is tested elsewhere")
    out = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + w, top + h))
    if coins[0] < config.flip:
        out = out.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if config.color_jitter is not None and coins[1] < config.color_jitter_prob:
        for i in order:
            change = config.color_jitter[i] * factors[i]
            if i < 3:
                kind = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[i]
                out = kind(out).enhance(max(0.0, 1 + change))
            else:
                hue, saturation, value = (np.asarray(band).astype(int) for band in out.convert("HSV").split())
                bands = [(hue + round(change * 255)) % 256, saturation, value]
                merged = Image.merge("HSV", [Image.fromarray(band.astype(np.uint8)) for band in bands])
                out = merged.convert("RGB")
    if coins[2] < config.gray_scale_prob:
        out = out.convert("L").convert("RGB")
    return np.asarray(out)


@pytest.mark.parametrize("seed", range(24))
def test_augmentation_is_pillow_in_double_precision(seed):
    image = np.random.default_rng(seed).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    expected = plain_augment(image, 32, np.random.default_rng(seed), STRONG)
    np.testing.assert_array_equal(augment(image, 32, np.random.default_rng(seed), STRONG), expected)


def test_the_same_view_at_half_the_scale_is_the_same_picture():
    smooth = Image.fromarray(np.random.default_rng(3).integers(0, 256, (5, 7, 3), dtype=np.uint8))
    full = np.asarray(smooth.resize((602, 398), Image.Resampling.BICUBIC))
    half = np.asarray(Image.fromarray(full).resize((301, 199), Image.Resampling.BOX))
    for seed in range(8):
        view = draw_view(398, 602, np.random.default_rng(seed), dataclasses.replace(STRONG, color_jitter_prob=1.0))
        a, b = (apply_view(image, 24, view).astype(int) for image in (full, half))
        assert np.abs(a - b).mean() < 2.5
        assert view.box(199, 301) == pytest.approx([edge / 2 for edge in view.box(398, 602)], abs=1e-4)


def test_views_of_a_sample_depend_on_seed_uid_and_number_alone():
    views = StoredViews(count=3, seed=7, augmentation=STRONG)
    uid = 2**64 - 5
    drawn = {views.draw(uid, number, 60, 80) for number in range(3)}
    assert len(drawn) == 3
    assert views.draw(uid, 1, 60, 80) == views.draw(uid, 1, 60, 80)
    assert views.draw(uid - 1, 1, 60, 80) != views.draw(uid, 1, 60, 80)
    assert dataclasses.replace(views, seed=8).draw(uid, 1, 60, 80) != views.draw(uid, 1, 60, 80)
    with pytest.raises(ValueError, match="count 0, seed 7; give a count from 1"):
        StoredViews(count=0, seed=7)


def test_the_view_that_changes_nothing_is_a_plain_resize():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((8, 8), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(apply_view(image, 8, View(), "bilinear"), expected)
    with pytest.raises(ValueError, match="interpolation 'cubic': give one of bicubic"):
        apply_view(image, 8, View(), "cubic")


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, np.nan), (0, -0.1), (2, 0.0), (2, 1.1), (4, 0.5), (5, 2), (9, 256), (9, 1.5), (10, 1), (13, 4), (14, -1)],
)
def test_a_row_that_is_no_view_is_refused(place, value):
    row = View().to_row()
    row[place] = value
    with pytest.raises(ValueError, match="stored view"):
        View.from_row(row)
    with pytest.raises(ValueError, match="15 finite numbers"):
        View.from_row(row[:14])
