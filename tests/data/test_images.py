"""Decoding: every mode comes out as upright RGB, every damaged file as a BadSample. The random and the eval square."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from clip_jax.data import images
from clip_jax.data.images import Augmentation, augment, decode, preprocess
from clip_jax.data.source import BadSample

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
SMOOTH = np.asarray(Image.fromarray(RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)).resize((600, 400)))


def encode(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG of that size which ends before its first pixel."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + body
        + struct.pack(">I4s", zlib.crc32(body), b"\0\0\1\0")
        + b"IDAT"
    )


def reason(data: bytes, **options) -> str:
    with pytest.raises(BadSample) as caught:
        decode(data, **options)
    return caught.value.reason


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM"])
def test_decode_equals_plain_pillow(kind):
    data = encode(SMOOTH, kind)
    out = decode(data)
    assert out.shape == (400, 600, 3)
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind, orientation):
    sideways = Image.fromarray(SMOOTH[:64, :96])
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = SMOOTH[:64, :96]
    if orientation >= 5:
        expected = expected.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        expected = expected[:, ::-1]
    if orientation in (3, 4, 7, 8):
        expected = expected[::-1]
    out = decode(encode(sideways, kind, exif=exif, quality=100))
    assert out.shape == expected.shape
    assert np.abs(out.astype(int) - expected).mean() < 3


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_spoils_nothing():
    data = encode(SMOOTH, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\0\0")
    assert decode(data).shape == SMOOTH.shape


def test_colour_modes():
    grey = NOISE[..., 0]
    np.testing.assert_array_equal(decode(encode(Image.fromarray(grey))), np.repeat(grey[..., None], 3, -1))
    bilevel = decode(encode(Image.fromarray(grey).convert("1")))
    assert set(np.unique(bilevel)) == {0, 255}
    palette = Image.fromarray(NOISE).quantize(64)
    np.testing.assert_array_equal(decode(encode(palette)), np.asarray(palette.convert("RGB")))
    np.testing.assert_array_equal(decode(encode(palette, "GIF")), np.asarray(palette.convert("RGB")))


def test_cmyk():
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # full magenta and yellow: red
    red, green, blue = decode(encode(cmyk, "JPEG", quality=100))[4, 4]
    assert red > 240
    assert max(green, blue) < 15


def test_16_bit_grey():
    wide = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    for kind in ("PNG", "TIFF"):
        out = decode(encode(wide, kind))
        np.testing.assert_array_equal(out, np.repeat((wide >> 8).astype(np.uint8)[..., None], 3, -1))
    buffer = b"P5\n16 16\n65535\n" + wide.astype(">u2").tobytes()  # Pillow opens this one in mode "I"
    np.testing.assert_array_equal(decode(buffer)[..., 1], wide >> 8)


def test_16_bit_grey_transparency():
    wide = np.full((8, 8), 20_000, np.uint16)
    wide[:4] = 0
    data = encode(wide)
    body = b"tRNS" + struct.pack(">H", 0)
    at = data.index(b"IDAT") - 4
    data = data[:at] + struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body)) + data[at:]
    out = decode(data)
    assert (out[:4] == 255).all()
    assert (out[4:] == 20_000 >> 8).all()


def test_transparency_is_over_white():
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    clear.paste((0, 0, 255, 255), (0, 0, 4, 8))
    for data in (encode(clear), encode(clear, "WEBP", lossless=True), encode(clear.quantize(4))):
        out = decode(data)
        assert (out[:, :4] == (0, 0, 255)).all()
        assert (out[:, 4:] == 255).all()
    assert (decode(encode(Image.new("RGBA", (4, 4), (0, 0, 0, 128)))) == 127).all()
    assert (decode(encode(Image.new("LA", (4, 4), (0, 0)))) == 255).all()
    assert (decode(encode(Image.new("RGB", (4, 4), (9, 9, 9)), transparency=(9, 9, 9))) == 255).all()
    assert (decode(encode(Image.new("L", (4, 4), 7), transparency=7)) == 255).all()
    assert (decode(encode(Image.new("P", (4, 4), 3), "GIF", transparency=3)) == 255).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animated_gives_the_first_frame(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    red, green, blue = decode(data)[8, 8]
    assert red > 240
    assert max(green, blue) < 15


def test_huge_image_is_refused_by_its_header():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reason(png_header(30_000, 30_000)) == "30000x30000 pixels, more than 100,000,000"
        assert "does not decode" in reason(png_header(9_600, 10_000))  # Pillow would warn of a decompression bomb
    assert "60x40 pixels, more than 2,000" in reason(encode(NOISE), max_pixels=2_000)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1)])
def test_too_small(size):
    assert reason(encode(Image.new("RGB", size))) == f"{size[0]}x{size[1]} pixels, smaller than 2"
    assert decode(encode(Image.new("RGB", (2, 2)))).shape == (2, 2, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_never_gives_a_partial_image(kind):
    data = encode(SMOOTH, kind)
    for share in (0.02, 0.3, 0.6, 0.9):
        assert reason(data[: int(len(data) * share)])


def test_not_an_image():
    assert reason(b"") == "empty image (0 bytes)"
    assert "unknown format, 9 bytes beginning b'<!DOCTYP'" in reason(b"<!DOCTYPE")
    assert reason(b"\x89PNG\r\n\x1a\n")
    assert "unknown format" in reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")  # never Ghostscript
    assert "floating-point" in reason(encode(Image.new("F", (4, 4)), "TIFF"))
    flipped = bytearray(encode(NOISE))
    flipped[len(flipped) // 2] ^= 255
    assert reason(bytes(flipped))


def test_draft_keeps_the_side_that_is_needed():
    data = encode(SMOOTH, "JPEG")
    assert decode(data, min_side=400).shape == (400, 600, 3)
    assert decode(data, min_side=201).shape == (400, 600, 3)
    assert decode(data, min_side=200).shape == (200, 300, 3)
    assert decode(data, min_side=30).shape == (50, 75, 3)
    assert decode(data, min_side=4000).shape == (400, 600, 3)
    assert decode(encode(SMOOTH), min_side=30).shape == (400, 600, 3)
    small = decode(data, min_side=100)
    plain = np.asarray(Image.fromarray(SMOOTH).resize((150, 100), Image.Resampling.BOX))
    assert np.abs(small.astype(int) - plain).mean() < 3


def test_preprocess_shortest_rounds_as_torchvision():
    # 333x500 to 224: the longer side is int(224 * 500 / 333) = 336, the crop begins at round((336 - 224) / 2) = 56.
    # 300x333: int(248.64) = 248 and 12. 225x226 to 224: int(224.99) = 224 and 0. 64x97 to 64: 97 and round(16.5) = 16.
    for (w, h), size, longer, start in [
        ((333, 500), 224, 336, 56),
        ((300, 333), 224, 248, 12),
        ((225, 226), 224, 224, 0),
        ((64, 97), 64, 97, 16),
        ((10, 12), 224, 268, 22),
    ]:
        pixels = RNG.integers(0, 256, (h, w, 3), dtype=np.uint8)
        resized = np.asarray(Image.fromarray(pixels).resize((size, longer), Image.Resampling.BICUBIC))
        expected = resized[start : start + size]
        np.testing.assert_array_equal(preprocess(pixels, size), expected)
        sideways = preprocess(pixels.transpose(1, 0, 2), size).transpose(1, 0, 2)
        assert np.abs(sideways.astype(int) - expected).mean() < 1  # resampling rounds after each of its two passes


def test_preprocess_of_the_right_size_changes_nothing():
    square = NOISE[:32, :32]
    for mode in ("shortest", "longest", "squash"):
        np.testing.assert_array_equal(preprocess(square, 32, resize_mode=mode), square)


def test_preprocess_strip_costs_no_more_than_a_square():
    strip = np.repeat(np.linspace(0, 255, 50_000)[None, :, None], 3, -1).astype(np.uint8).repeat(2, 0)
    out = preprocess(strip, 224)
    assert out.shape == (224, 224, 3)
    assert abs(int(out.mean()) - 127) <= 1


def test_preprocess_longest_and_squash():
    wide = np.full((50, 100, 3), 200, np.uint8)
    out = preprocess(wide, 32, resize_mode="longest", fill_color=9)
    assert (out[8:24] == 200).all()
    assert (out[:8] == 9).all()
    assert (out[24:] == 9).all()
    # 101x30 to 32: round(30 / (101 / 32)) = 10 rows, (32 - 10) // 2 = 11 above
    uneven = preprocess(np.full((30, 101, 3), 200, np.uint8), 32, resize_mode="longest")
    assert (uneven[11:21] == 200).all()
    assert not uneven[:11].any()
    assert not uneven[21:].any()
    assert preprocess(np.zeros((2, 900, 3), np.uint8), 32, resize_mode="longest").shape == (32, 32, 3)
    expected = Image.fromarray(NOISE).resize((32, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(preprocess(NOISE, 32, resize_mode="squash", interpolation="bilinear"), expected)


def test_preprocess_errors_name_the_choices():
    with pytest.raises(ValueError, match="give shortest, longest or squash"):
        preprocess(NOISE, 32, resize_mode="stretch")
    with pytest.raises(ValueError, match="interpolation 'cubic': give one of bicubic, bilinear, lanczos"):
        preprocess(NOISE, 32, interpolation="cubic")


EVERYTHING = Augmentation(
    scale=(0.2, 0.8), flip=0.5, color_jitter=(0.4, 0.4, 0.4, 0.1), color_jitter_prob=0.8, gray_scale_prob=0.2
)


def test_augment_depends_on_the_generator_only():
    first = augment(NOISE, 32, np.random.default_rng([1, 2]), EVERYTHING)
    assert first.shape == (32, 32, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, augment(NOISE, 32, np.random.default_rng([1, 2]), EVERYTHING))
    assert (first != augment(NOISE, 32, np.random.default_rng([1, 3]), EVERYTHING)).any()


def test_augment_takes_the_same_draws_for_any_image_and_config():
    after = set()
    for image in (NOISE, SMOOTH, np.zeros((2, 300, 3), np.uint8)):
        for config in (Augmentation(), EVERYTHING):
            rng = np.random.default_rng(5)
            augment(image, 16, rng, config)
            after.add(rng.random())
    assert len(after) == 1


def test_random_crops_are_in_bounds_and_of_the_asked_area_and_shape():
    config, rng = Augmentation(scale=(0.1, 0.5)), np.random.default_rng(0)
    areas, starts = [], set()
    for _ in range(300):
        left, top, right, bottom = images._random_box(400, 600, rng.random((10, 4)), config)
        assert 0 <= left < right <= 600
        assert 0 <= top < bottom <= 400
        areas.append((right - left) * (bottom - top) / 240_000)
        assert 0.74 < (right - left) / (bottom - top) < 1.35
        starts.add((left, top))
    assert 0.09 < min(areas) < 0.15
    assert 0.45 < max(areas) < 0.51
    assert len(starts) > 250


def test_random_crop_of_a_strip_falls_back_to_the_centre():
    tries = np.random.default_rng(0).random((10, 4))
    assert images._random_box(10, 100, tries, Augmentation()) == (43, 0, 56, 10)  # round(10 * 4/3) = 13 wide
    assert images._random_box(100, 9, tries, Augmentation()) == (0, 44, 9, 56)  # round(9 / (3/4)) = 12 high


def test_crop_of_the_whole_image_is_a_plain_resize():
    config = Augmentation(scale=(1.0, 1.0), ratio=(1.5, 1.5))
    out = augment(NOISE, 24, np.random.default_rng(0), config)
    np.testing.assert_array_equal(out, Image.fromarray(NOISE).resize((24, 24), Image.Resampling.BICUBIC))
    mirrored = augment(NOISE, 24, np.random.default_rng(0), Augmentation(scale=(1.0, 1.0), ratio=(1.5, 1.5), flip=1.0))
    np.testing.assert_array_equal(mirrored, out[:, ::-1])


def test_grey_and_colour_jitter():
    rng = np.random.default_rng(0)
    grey = augment(SMOOTH, 16, rng, Augmentation(gray_scale_prob=1.0))
    assert (grey[..., 0] == grey[..., 1]).all()
    assert (grey[..., 0] == grey[..., 2]).all()
    green = np.zeros((8, 8, 3), np.uint8)
    green[..., 1] = 200
    hues = Augmentation(color_jitter=(0, 0, 0, 0.5), color_jitter_prob=1.0)
    colours = {tuple(augment(green, 4, rng, hues)[0, 0].tolist()) for _ in range(20)}
    assert len(colours) > 15
    assert {max(colour) for colour in colours} <= {199, 200, 201}
    still = Augmentation(color_jitter=(0, 0, 0, 0), color_jitter_prob=1.0)
    np.testing.assert_allclose(augment(green, 4, rng, still).astype(int), green[:4, :4], atol=1)
    lights = Augmentation(color_jitter=(0.5, 0, 0, 0), color_jitter_prob=1.0)
    levels = [int(augment(green, 4, rng, lights)[0, 0, 1]) for _ in range(50)]
    assert 100 <= min(levels) < 130
    assert 240 < max(levels) <= 255


def test_crops_at_the_draft_side_need_no_enlarging():
    config = Augmentation(scale=(0.3, 1.0))
    side, rng = config.min_side(64), np.random.default_rng(0)
    for _ in range(500):
        left, top, right, bottom = images._random_box(side, side + 40, rng.random((10, 4)), config)
        assert min(right - left, bottom - top) >= 64
    assert Augmentation().min_side(224) == 273


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (0.0, 1.0)}, r"scale \(0.0, 1.0\): give 0 < low <= high <= 1"),
        ({"ratio": (2.0, 1.0)}, "ratio"),
        ({"flip": 1.5}, r"flip 1.5: a probability is in \[0, 1\]"),
        ({"flip": float("nan")}, "flip nan"),
        ({"color_jitter_prob": 0.5}, "give both or neither"),
        ({"color_jitter": (0.1, 0.1, 0.1, 0.1)}, "give both or neither"),
        ({"color_jitter": (0.1, 0.1, 0.1, 0.6), "color_jitter_prob": 1.0}, "hue <= 0.5"),
        ({"interpolation": "random"}, "bicubic, bilinear, lanczos"),
    ],
)
def test_augmentation_errors(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)
