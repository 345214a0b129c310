"""Encoded images to u8[H, W, 3], and from there to the square that a tower reads: random for training, fixed for evals.

Means and deviations are exported for the device, which normalises; everything here stays in bytes.
"""

import dataclasses
import io
import math
import struct
from typing import Literal

import numpy as np
from PIL import Image

from clip_jax.data.source import BadSample
from clip_jax.data.views import INTERPOLATIONS as INTERPOLATIONS
from clip_jax.data.views import View, apply_view, resampling

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

# Formats of image sets. Pillow reads more, EPS among them by running Ghostscript: never on data from the web.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO")
ResizeMode = Literal["shortest", "longest", "squash"]

_LARGEST_RESIZED = 2**25  # pixels; where sizes are larger, the crop comes first, and a few pixels are off by two levels
SMALLEST_SIDE = 2  # pixels; an image of one row or column carries nothing (1x1 is the usual tracking pixel)
_TURNS = {  # the EXIF orientation tag -> what makes the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112


def decode(data: bytes, *, min_side: int | None = None, max_pixels: int = 100_000_000) -> np.ndarray:
    """The first frame of an encoded image as read-only u8[H, W, 3]: upright by EXIF, transparency over white.

    min_side: decode a large JPEG at 1/2, 1/4 or 1/8 scale, as long as its shorter side keeps at least this many pixels.
    max_pixels: by the header, before any pixel is decoded. Raises BadSample for anything that does not decode in full.
    """
    if not data:
        raise BadSample("empty image (0 bytes)")
    try:
        with _open(data) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise BadSample(f"{width}x{height} pixels, more than {max_pixels:,}")
            if min(width, height) < SMALLEST_SIDE:
                raise BadSample(f"{width}x{height} pixels, smaller than {SMALLEST_SIDE}")
            if min_side is not None:
                image.draft(None, (min_side, min_side))
            return pixels(image)
    except BadSample:
        raise
    except Exception as error:  # a damaged file raises dozens of types out of Pillow and the libraries below it
        raise BadSample(f"image does not decode: {type(error).__name__}: {error}") from error


def pixels(image: Image.Image) -> np.ndarray:
    """An image of any of Pillow's modes as read-only u8[H, W, 3]: upright by EXIF, transparency over white.

    Raises BadSample for pixels that do not decode in full or have no range.
    """
    try:
        image.load()
        return np.asarray(_upright(_rgb(image), image))
    except BadSample:
        raise
    except Exception as error:
        raise BadSample(f"image does not decode: {type(error).__name__}: {error}") from error


def _open(data: bytes) -> Image.Image:
    """Image.open without its own check of the size, which warns where ours refuses."""
    Image.init()
    for name in FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        accepted = accept is None or accept(data[:16])
        if factory is None or not accepted or isinstance(accepted, str):  # a text says what this Pillow lacks
            continue
        try:
            return factory(io.BytesIO(data), "")
        except (
            SyntaxError,
            IndexError,
            TypeError,
            struct.error,
        ) as error:  # as in Image.open
            raise BadSample(f"image does not decode: damaged {name} header: {error}") from error
    raise BadSample(f"image of an unknown format, {len(data)} bytes beginning {data[:8]!r}")


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB; 16-bit grey keeps its high byte, as Pillow does for 16-bit colour."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.int32).clip(0, 65535)
        grey = (wide >> 8).astype(np.uint8)
        if isinstance(clear := image.info.get("transparency"), int):
            grey[wide == clear] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.mode == "F":
        raise BadSample("floating-point pixels of unknown range")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _upright(pixels: Image.Image, tagged: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(tagged.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF data say nothing about the pixels, which are whole
        turn = None
    return pixels if turn is None else pixels.transpose(turn)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random crop and colours, with the names and meanings of open_clip's AugmentationCfg.

    scale: the crop's area as a share of the image's. ratio: its width over its height. flip: probability of mirroring.
    color_jitter: the largest change of (brightness, contrast, saturation, hue), applied with color_jitter_prob.
    """

    scale: tuple[float, float] = (0.9, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0
    color_jitter: tuple[float, float, float, float] | None = None
    color_jitter_prob: float = 0.0
    gray_scale_prob: float = 0.0
    interpolation: str = "bicubic"

    def __post_init__(self):
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"augmentation scale {self.scale}: give 0 < low <= high <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise ValueError(f"augmentation ratio {self.ratio}: give 0 < low <= high")
        for name in ("flip", "color_jitter_prob", "gray_scale_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augmentation {name} {getattr(self, name)}: a probability is in [0, 1]")
        if (self.color_jitter is None) != (self.color_jitter_prob == 0):
            raise ValueError(
                f"color_jitter {self.color_jitter} at color_jitter_prob {self.color_jitter_prob}: give both or neither"
            )
        if self.color_jitter is not None and (
            len(self.color_jitter) != 4 or min(self.color_jitter) < 0 or self.color_jitter[3] > 0.5
        ):
            raise ValueError(
                f"color_jitter {self.color_jitter}: give (brightness, contrast, saturation, hue <= 0.5), none negative"
            )
        resampling(self.interpolation)

    def min_side(self, size: int) -> int:
        """The shorter side an image needs for its smallest crop to have `size` pixels each way: decode's min_side."""
        narrowest = min(self.ratio[0], 1 / self.ratio[1])
        return math.ceil(size / math.sqrt(self.scale[0] * narrowest))


def augment(image: np.ndarray, size: int, rng: np.random.Generator, config: Augmentation) -> np.ndarray:
    """u8[H, W, 3] -> u8[size, size, 3]: torchvision's RandomResizedCrop; then flip, jitter and grey, each by chance."""
    return apply_view(image, size, draw_view(image.shape[0], image.shape[1], rng, config), config.interpolation)


def draw_view(height: int, width: int, rng: np.random.Generator, config: Augmentation) -> View:
    """What `augment` does to an image of that size, in pixels.

    It takes the same draws from `rng` whatever the size and the config, so that later draws depend on neither.
    """
    tries, coins, factors, order = rng.random((10, 4)), rng.random(3), rng.uniform(-1, 1, 4), rng.permutation(4)
    left, top, right, bottom = _random_box(height, width, tries, config)
    view = View(
        left=_f32(left / width),
        top=_f32(top / height),
        width=_f32((right - left) / width),
        height=_f32((bottom - top) / height),
        flip=bool(coins[0] < config.flip),
        grey=bool(coins[2] < config.gray_scale_prob),
    )
    if config.color_jitter is None or coins[1] >= config.color_jitter_prob:
        return view
    changes = [float(largest * factor) for largest, factor in zip(config.color_jitter, factors, strict=True)]
    brightness, contrast, saturation = (_f32(max(0.0, 1 + change)) for change in changes[:3])
    first, second, third, fourth = order.tolist()
    return dataclasses.replace(
        view,
        jitter=True,
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        hue=round(changes[3] * 255) % 256,
        order=(first, second, third, fourth),
    )


def preprocess(
    image: np.ndarray,
    size: int,
    *,
    resize_mode: ResizeMode = "shortest",
    interpolation: str = "bicubic",
    fill_color: int = 0,
) -> np.ndarray:
    """u8[H, W, 3] -> u8[size, size, 3], without chance.

    shortest: the shorter side to `size`, then the centre, rounded as torchvision's Resize and CenterCrop round.
    longest: the longer side to `size`, then bars of `fill_color`. squash: both sides to `size`. Both as in open_clip.
    """
    height, width = image.shape[:2]
    source, chosen = Image.fromarray(image), resampling(interpolation)
    if resize_mode == "squash":
        return np.array(source.resize((size, size), chosen))
    if resize_mode == "longest":
        ratio = max(height, width) / size
        inner = source.resize((max(1, round(width / ratio)), max(1, round(height / ratio))), chosen)
        out = Image.new("RGB", (size, size), (fill_color,) * 3)
        out.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
        return np.array(out)
    if resize_mode != "shortest":
        raise ValueError(f"resize_mode {resize_mode!r}: give shortest, longest or squash")
    longer = int(size * max(width, height) / min(width, height))
    new_width, new_height = (size, longer) if width <= height else (longer, size)
    left, top = round((new_width - size) / 2), round((new_height - size) / 2)
    if longer * size > _LARGEST_RESIZED:  # resize what is kept only: a strip of 2 x 50,000 pixels would need gigabytes
        x, y = width / new_width, height / new_height
        return np.array(
            source.resize((size, size), chosen, box=(left * x, top * y, (left + size) * x, (top + size) * y))
        )
    resized = np.asarray(source.resize((new_width, new_height), chosen))
    return resized[top : top + size, left : left + size].copy()


def _f32(value: float) -> float:
    return float(np.float32(value))


def _random_box(height: int, width: int, tries: np.ndarray, config: Augmentation) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) in pixels: the first of ten tries f64[10, 4] that fits, or the widest centred."""
    low, high = config.ratio
    for area, shape, x, y in tries:
        pixels = height * width * (config.scale[0] + area * (config.scale[1] - config.scale[0]))
        ratio = math.exp(math.log(low) + shape * (math.log(high) - math.log(low)))
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            return left, top, left + w, top + h
    w = min(width, max(1, round(height * high)))
    h = min(height, max(1, round(width / low)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
