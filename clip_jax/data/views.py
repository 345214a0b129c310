"""One augmentation of an image as numbers, so that it can be stored beside what a teacher made of it and done again."""

import dataclasses

import numpy as np
from PIL import Image, ImageEnhance

INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}
VIEW_NUMBERS = 15  # K, in a stored row
_EDGE = 2.0**-23  # of the image's side: an edge this near to a whole pixel was drawn there and rounded to f32


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """What was drawn for one augmentation; every number is one that f32 holds, so that a stored row is the view itself.

    left, top, width, height: the crop as shares of the image's width and height, the same at any scale of decoding.
    brightness, contrast, saturation: factors, 1 changes nothing. hue: in 1/256 of the colour circle, whole, in [0, 255].
    order: in which these four are applied, as numbers 0 to 3. jitter: whether they are.
    """

    left: float = 0.0
    top: float = 0.0
    width: float = 1.0
    height: float = 1.0
    flip: bool = False
    jitter: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: int = 0
    order: tuple[int, int, int, int] = (0, 1, 2, 3)
    grey: bool = False

    def to_row(self) -> np.ndarray:
        """f32[15]: left, top, width, height, flip, jitter, brightness, contrast, saturation, hue, order (4), grey."""
        box = (self.left, self.top, self.width, self.height)
        factors = (self.brightness, self.contrast, self.saturation, self.hue)
        return np.array([*box, self.flip, self.jitter, *factors, *self.order, self.grey], np.float32)

    @classmethod
    def from_row(cls, row: np.ndarray) -> "View":
        """The view of such a row. Raises ValueError for numbers that are none."""
        values = np.asarray(row, np.float64)
        if values.shape != (VIEW_NUMBERS,) or not np.isfinite(values).all():
            raise ValueError(f"a stored view is {VIEW_NUMBERS} finite numbers, not {values.tolist()}")
        left, top, width, height, flip, jitter, brightness, contrast, saturation, hue, *order, grey = values.tolist()
        inside = left >= 0 < width and top >= 0 < height and max(left + width, top + height) <= 1 + 2 * _EDGE
        flags = all(value in (0.0, 1.0) for value in (flip, jitter, grey))
        if not (inside and flags and sorted(order) == [0, 1, 2, 3] and hue in range(256)):
            raise ValueError(f"stored view {values.tolist()}: its crop, flags, hue or order is out of range")
        first, second, third, fourth = map(int, order)
        return cls(
            left=left,
            top=top,
            width=width,
            height=height,
            flip=bool(flip),
            jitter=bool(jitter),
            brightness=brightness,
            contrast=contrast,
            saturation=saturation,
            hue=int(hue),
            order=(first, second, third, fourth),
            grey=bool(grey),
        )

    def box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of the crop in pixels of an image of that size."""
        left, right = _edge(self.left, width), _edge(self.left + self.width, width)
        top, bottom = _edge(self.top, height), _edge(self.top + self.height, height)
        return left, top, right, bottom


def apply_view(image: np.ndarray, size: int, view: View, interpolation: str = "bicubic") -> np.ndarray:
    """u8[H, W, 3] -> u8[size, size, 3]: crop and resize in one; then flip, jitter and grey where the view has them."""
    box = view.box(image.shape[0], image.shape[1])
    out = Image.fromarray(image).resize((size, size), resampling(interpolation), box=box)
    if view.flip:
        out = out.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if view.jitter:
        amounts = (view.brightness, view.contrast, view.saturation, view.hue)
        for i in view.order:
            out = _JITTERS[i](out, amounts[i])
    if view.grey:
        out = out.convert("L").convert("RGB")
    return np.array(out)


def resampling(name: str) -> Image.Resampling:
    """Pillow's filter of that name. Raises ValueError that lists the choices."""
    if name not in INTERPOLATIONS:
        raise ValueError(f"interpolation {name!r}: give one of {', '.join(INTERPOLATIONS)}")
    return INTERPOLATIONS[name]


def _edge(share: float, side: int) -> float:
    """The share of a side in pixels; the whole number it was drawn as, where f32 moved it off."""
    pixels = min(share, 1.0) * side
    whole = float(round(pixels))
    return whole if abs(pixels - whole) <= _EDGE * side else pixels


def _shift_hue(image: Image.Image, turn: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    moved = Image.fromarray(np.asarray(hue) + np.uint8(turn))
    return Image.merge("HSV", (moved, saturation, value)).convert("RGB")


_JITTERS = (
    lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    _shift_hue,
)
