"""The embedded data set `glyphs`: 15,000 named drawings by six designers' hands, in named colours, captioned.

The drawings are the icon fonts in the wheel `qtawesome`; the captions are read from the icons' names
(glyph_names.py). A model that names a drawing it has seen from another designer's hand, or one whose word it never met,
has learned something: the splits ask exactly that.
"""

import dataclasses
import difflib
import functools
import hashlib
import math
import threading

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from clip_jax.data import glyph_fonts
from clip_jax.data.glyph_fonts import Drawing
from clip_jax.data.glyph_names import in_color, with_article
from clip_jax.data.source import Sample, Source, sample_uid

# sRGB of the eleven basic colour terms (Berlin and Kay, 1969).
PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (214, 32, 39),
    "orange": (245, 130, 32),
    "yellow": (250, 218, 40),
    "green": (30, 140, 60),
    "blue": (30, 80, 200),
    "purple": (118, 42, 160),
    "pink": (250, 160, 195),
    "brown": (110, 65, 30),
    "black": (15, 15, 15),
    "white": (250, 250, 250),
    "gray": (150, 150, 150),
}
SPLITS = {
    "train": "the training families' drawings of the concepts that are not held out",
    "validation": "one in thirty of those drawings, kept from training; for choosing, so that no report is tuned upon",
    "designers": "the family no training split has, in the concepts training knows: another hand",
    "concepts": "the training families' drawings of the held-out concepts: words never trained on",
}
COLORS = ("palette", "black_on_white")
HELD_OUT_FAMILY = "remix"
TRAIN_FAMILIES = tuple(family for family in glyph_fonts.FAMILIES if family != HELD_OUT_FAMILY)
HELD_OUT_SHARE = 0.09  # of the concepts, which makes them enough for a gallery of 500
VALIDATION_SHARE = 1 / 30  # of the training families' drawings
MIN_CONTRAST = 2.4  # between drawing and background, as WCAG 2 defines it, 1 to 21
SIZES = (0.70, 0.95)  # of the image: the em square a drawing is set in
INK = (0.35, 0.9)  # of the image: the drawing's longer side
_TEXTS = 6  # that every sample has at least
_MEASURE = 256  # pixels to the em when ink is measured


@dataclasses.dataclass(frozen=True, kw_only=True)
class GlyphsConfig:
    """What to draw.

    split: one of SPLITS. size: the image's side in pixels. variants: colourings of each drawing, each its own sample.
    colors: "palette", or "black_on_white", where nothing but shape tells drawings apart (and there is one variant).
    limit: 0 for all; else a gallery of so many distinct concepts, one drawing and one colouring each. synthetic: how many
    of a sample's texts, the last ones, stand for generated captions, and are no captions then.
    """

    split: str = "train"
    size: int = 64
    variants: int = 8
    colors: str = "palette"
    limit: int = 0
    synthetic: int = 0

    def __post_init__(self):
        _check_name("split", self.split, tuple(SPLITS))
        _check_name("colors", self.colors, COLORS)
        if self.size < 8:
            raise ValueError(f"glyphs of {self.size} pixels cannot be told apart; use a size of 8 or more")
        if not 1 <= self.variants <= len(colorings()):
            most = f"1 to {len(colorings())}, as many as the palette has pairs of enough contrast"
            raise ValueError(f"{self.variants} variants of a drawing; use {most}")
        if self.limit < 0:
            raise ValueError(f"limit {self.limit}; use 0 for all drawings, or a number of concepts")
        if not 0 <= self.synthetic < _TEXTS:
            raise ValueError(f"{self.synthetic} synthetic captions of at least {_TEXTS} texts; use 0 to {_TEXTS - 1}")


class Glyphs(Source):
    """The samples of one split; the index is a tuple of named tuples, fonts are opened lazily by each thread."""

    name = "glyphs"
    classes: tuple[str, ...] = ()

    def __init__(self, config: GlyphsConfig):
        """Raises ModuleNotFoundError without the wheel qtawesome, ValueError for a limit beyond what there is."""
        self.config = config
        self._drawings = _split(config.split)
        self._variants = config.variants
        if config.limit:
            self._drawings = _gallery(config.split, config.limit)
        if config.limit or config.colors == "black_on_white":
            self._variants = 1

    def __len__(self) -> int:
        return len(self._drawings) * self._variants

    def __getitem__(self, index: int) -> Sample:
        drawing, color, background = self._at(index)
        uid = _uid(drawing, color, background)
        texts = captions(drawing, color, background)
        kept = len(texts) - self.config.synthetic
        return Sample(
            uid=uid,
            image=_draw(drawing, PALETTE[color], PALETTE[background], self.config.size, uid),
            captions=texts[:kept],
            synthetic=texts[kept:],
        )

    def uid(self, index: int) -> int:
        return _uid(*self._at(index))

    def shard(self, index: int) -> str:
        return self._at(index)[0].font

    def concept(self, index: int) -> str:
        """What sample `index` shows, without colours: "calendar with a check mark"."""
        return self._at(index)[0].words

    def colors(self, index: int) -> tuple[str, str]:
        """The names of sample `index`'s colours, of the drawing and of its background."""
        return self._at(index)[1:]

    def _at(self, index: int) -> tuple[Drawing, str, str]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        drawing = self._drawings[index // self._variants]
        if self.config.colors == "black_on_white":
            return drawing, "black", "white"
        pairs = colorings()  # a stride prime to their number visits each once, and varies both colours at once
        start = int(_fraction("coloring", drawing.key) * len(pairs))
        return drawing, *pairs[(start + index % self._variants * _stride(len(pairs))) % len(pairs)]


def captions(drawing: Drawing, color: str, background: str) -> tuple[str, ...]:
    """The texts of one sample; the first is the canonical one. All are true of the image, and most name its colours."""
    thing = with_article(in_color(drawing.words, color), drawing.words)
    canvas = with_article(f"{background} background")
    texts = (
        f"{thing} on {background}",
        f"{drawing.words}, {color} on {canvas}",
        f"an icon of {thing}",
        f"{thing} drawn on {canvas}",
        f"a drawing of {with_article(drawing.words)}",
        f"on {canvas}, {thing}",
    )
    return (*texts, f"{thing} {drawing.style}, on {background}") if drawing.style else texts


@functools.cache
def held_out_concepts() -> tuple[str, ...]:
    """The things that only the split "concepts" shows, as captions name them, in alphabetical order."""
    return tuple(sorted({drawing.words for drawing in _split("concepts")}))


@functools.cache
def colorings() -> tuple[tuple[str, str], ...]:
    """All (colour of the drawing, colour of its background) whose contrast is at least MIN_CONTRAST."""
    pairs = ((a, b) for a in PALETTE for b in PALETTE)
    light = {name: _luminance(rgb) + 0.05 for name, rgb in PALETTE.items()}
    return tuple((a, b) for a, b in pairs if max(light[a], light[b]) >= MIN_CONTRAST * min(light[a], light[b]))


def _luminance(rgb: tuple[int, int, int]) -> float:
    """Relative luminance of an sRGB colour, 0 to 1 (WCAG 2)."""
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@functools.cache
def _split(split: str) -> tuple[Drawing, ...]:
    """The drawings of a split, in order of family and name; those that speak of a palette colour are in none."""
    drawings = [d for family in glyph_fonts.FAMILIES for d in glyph_fonts.drawings(family) if _colorless(d)]
    fresh = {c for c in {d.concept for d in drawings} if _fraction("concept", c) < HELD_OUT_SHARE}
    ours = [d for d in drawings if d.family != HELD_OUT_FAMILY]
    if split == "concepts":
        return tuple(d for d in ours if d.concept in fresh)
    known = [d for d in ours if d.concept not in fresh]
    if split == "designers":
        words = {d.concept for d in known}
        return tuple(d for d in drawings if d.family == HELD_OUT_FAMILY and d.concept in words)
    rank = {d.key: _fraction("drawing", d.key) for d in known}
    kept = {d.concept: d.key for d in sorted(known, key=lambda d: rank[d.key])}  # every concept keeps its last
    chosen = {key for key in rank if rank[key] < VALIDATION_SHARE} - set(kept.values())
    return tuple(d for d in known if (d.key in chosen) == (split == "validation"))


@functools.cache
def _gallery(split: str, limit: int) -> tuple[Drawing, ...]:
    """One drawing of each of `limit` concepts, both chosen by hash, so that a larger gallery contains a smaller."""
    drawings = sorted(_split(split), key=lambda d: _fraction("drawing", d.key), reverse=True)
    shown = {d.concept: d for d in drawings}
    if limit > len(shown):
        raise ValueError(f"a gallery of {limit} concepts; the split {split} has {len(shown)}, use at most so many")
    return tuple(shown[c] for c in sorted(shown, key=lambda c: _fraction("gallery", c))[:limit])


def _colorless(drawing: Drawing) -> bool:
    return not set(drawing.words.lower().split()) & {*PALETTE, "grey"}


def _fraction(purpose: str, text: str) -> float:
    """A number in [0, 1) that depends on nothing but the two texts."""
    digest = hashlib.blake2b(f"{purpose}\0{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


@functools.cache
def _stride(n: int) -> int:
    return next(step for step in range(round(0.38 * n), n + 1) if math.gcd(step, n) == 1)


def _uid(drawing: Drawing, color: str, background: str) -> int:
    return sample_uid("glyphs", f"{drawing.key}/{color}/{background}")


_opened = threading.local()  # FreeType faces are not safe to share between threads


def _font(file: str, em: int) -> ImageFont.FreeTypeFont:
    fonts = _opened.__dict__.setdefault("fonts", {})
    if (file, em) not in fonts:
        path = str(glyph_fonts.fonts_folder() / file)
        fonts[file, em] = ImageFont.truetype(path, em, layout_engine=ImageFont.Layout.BASIC)
    return fonts[file, em]


@functools.lru_cache(maxsize=1 << 15)
def _ink(file: str, char: str) -> tuple[float, ...]:
    """Where a character's ink lies around the pen's place, in em: left, top, right, bottom, downwards positive.

    Measured, as the boxes that some of the fonts state hold more than the ink; two threads at worst measure it twice.
    """
    return tuple(n / _MEASURE for n in _font(file, _MEASURE).getbbox(char, anchor="ls"))


def _draw(drawing: Drawing, color: tuple, background: tuple, size: int, seed: int) -> np.ndarray:
    """The drawing as u8[size, size, 3], anti-aliased; 48 bits of the seed choose its size and its place."""
    scale, across, down = ((seed >> 16 * i & 0xFFFF) / 0x10000 for i in range(3))
    em = round(size * (SIZES[0] + (SIZES[1] - SIZES[0]) * int(scale * 8) / 7))  # eight sizes: few fonts stay open
    left, top, right, bottom = _ink(drawing.font, drawing.char)
    side = max(right - left, bottom - top) * em
    if fit := (side < INK[0] * size and INK[0]) or (side > INK[1] * size and INK[1]):
        em = max(1, int(em * fit * size / side))
    x0, x1, y0, y1 = math.floor(left * em), math.ceil(right * em), math.floor(top * em), math.ceil(bottom * em)
    at = _place(size - x1 + x0, across) - x0, _place(size - y1 + y0, down) - y0
    image = Image.new("RGB", (size, size), background)
    ImageDraw.Draw(image).text(at, drawing.char, fill=color, font=_font(drawing.font, em), anchor="ls")
    return np.array(image)


def _place(room: int, share: float) -> int:
    """How much of the free room lies before the drawing: a tenth of it or two pixels at least, and as much behind."""
    least = max(0.1 * room, min(2.0, room / 2))
    return round(least + share * (room - 2 * least))


def _check_name(what: str, given: str, allowed: tuple[str, ...]):
    if given not in allowed:
        near = difflib.get_close_matches(given, allowed, n=1, cutoff=0.0)[0]
        raise ValueError(f"glyphs {what} {given!r}; allowed are {', '.join(allowed)}, nearest {near!r}")
