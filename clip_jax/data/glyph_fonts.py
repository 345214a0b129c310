"""The named drawings in the icon fonts that the `qtawesome` wheel carries as data; Qt is never imported."""

import functools
import importlib.util
import json
import pathlib
import re
import struct
from typing import NamedTuple

from clip_jax.data.glyph_names import read
from clip_jax.data.glyph_words import vocabulary

# A designer's family -> its font files, without versions; of several generations the newest is used.
FAMILIES = {
    "material": ("materialdesignicons",),
    "awesome": ("fontawesome#-solid", "fontawesome#-regular"),
    "phosphor": ("phosphor",),
    "codicons": ("codicon",),
    "elusive": ("elusiveicons",),
    "remix": ("remixicon",),
}
_BRAND_FONTS = "fontawesome#-brands"
_INSTALL = "pip install qtawesome"


class Drawing(NamedTuple):
    """One named drawing. name: as the font calls it; words, style, concept: see glyph_names.Reading."""

    family: str
    name: str
    font: str
    char: str
    words: str
    style: str
    concept: str

    @property
    def key(self) -> str:
        return f"{self.family}/{self.name}"


@functools.cache
def fonts_folder() -> pathlib.Path:
    """Where the wheel keeps its fonts. Raises ModuleNotFoundError without the wheel."""
    spec = importlib.util.find_spec("qtawesome")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"the glyphs data set draws the icon fonts in the wheel qtawesome, which is not installed; {_INSTALL}"
        )
    return pathlib.Path(spec.submodule_search_locations[0]) / "fonts"


def _font(stem: str) -> tuple[str, dict[str, int]]:
    """The newest font of a stem ("#": any generation): its file name and its charmap {icon name: code point}."""
    pattern = re.compile(stem.replace("#", r"\d*") + r"\d*(?:-webfont)?-([\d.]+)\.ttf")
    files = [path.name for path in fonts_folder().glob("*.ttf") if pattern.fullmatch(path.name)]
    if not files:
        raise FileNotFoundError(
            f"no font {stem.replace('#', '*')}*.ttf in {fonts_folder()}; a complete copy of the wheel has it: "
            f"{_INSTALL} --force-reinstall"
        )
    newest = max(files, key=lambda file: [int(number) for number in re.findall(r"\d+", file)])
    charmap = fonts_folder() / re.sub(r"-([\d.]+)\.ttf$", r"-charmap-\1.json", newest)
    codes = json.loads(charmap.read_text("utf-8"))
    return newest, {name: int(code, 16) for name, code in codes.items()}


@functools.cache
def drawings(family: str) -> tuple[Drawing, ...]:
    """A family's drawings in order of name: no trademarks, no blanks, each outline once and under its shortest name."""
    found: dict[bytes, Drawing] = {}
    for stem in FAMILIES[family]:
        font, charmap = _font(stem)
        outline = outlines((fonts_folder() / font).read_bytes())
        for icon, code in sorted(charmap.items(), key=lambda item: (len(item[0]), item[0])):
            if code not in outline or outline[code] in found or icon == "notdef" or _is_brand(family, icon):
                continue
            name = icon + "-regular" * stem.endswith("-regular")
            reading = read(family, name)
            said = reading.words, reading.style, reading.concept
            found[outline[code]] = Drawing(family, name, font, chr(code), *said)
    return tuple(sorted(found.values()))


@functools.cache
def _brands() -> frozenset[str]:
    return (frozenset(_font(_BRAND_FONTS)[1]) - vocabulary().not_brands) | vocabulary().brands


def _is_brand(family: str, icon: str) -> bool:
    tokens = icon.split("-")
    if family == "awesome":  # its trademarks have a font of their own
        return icon in vocabulary().brands and icon != "language"
    openings = ["-".join(tokens[: n + 1]) for n in range(len(tokens))]
    return "logo" in tokens or any(opening in _brands() or f"{family}:{opening}" in _brands() for opening in openings)


def outlines(data: bytes) -> dict[int, bytes]:
    """A TrueType font's outlines by code point, as the bytes of its `glyf` table; blank glyphs are left out.

    Equal bytes are equal drawings, whatever renders them (the OpenType specification, tables cmap, loca and glyf).
    """
    tables = {}
    for i in range(struct.unpack_from(">H", data, 4)[0]):
        tag, _, start, length = struct.unpack_from(">4sIII", data, 12 + 16 * i)
        tables[tag] = data[start : start + length]
    glyf, loca = tables[b"glyf"], tables[b"loca"]
    if struct.unpack_from(">h", tables[b"head"], 50)[0]:
        offsets = struct.unpack(f">{len(loca) // 4}I", loca)
    else:
        offsets = tuple(2 * half for half in struct.unpack(f">{len(loca) // 2}H", loca))
    shapes = ((code, glyf[offsets[glyph] : offsets[glyph + 1]]) for code, glyph in _cmap(tables[b"cmap"]).items())
    return {code: shape for code, shape in shapes if shape}


def _cmap(table: bytes) -> dict[int, int]:
    """The cmap table's {code point: glyph index}, glyph 0 (.notdef) left out; subtables of formats 4 and 12."""
    glyphs: dict[int, int] = {}
    for i in range(struct.unpack_from(">H", table, 2)[0]):
        at = struct.unpack_from(">HHI", table, 4 + 8 * i)[2]
        kind = struct.unpack_from(">H", table, at)[0]
        if kind == 12:
            for j in range(struct.unpack_from(">I", table, at + 12)[0]):
                first, last, glyph = struct.unpack_from(">III", table, at + 16 + 12 * j)
                glyphs.update((code, glyph + code - first) for code in range(first, last + 1))
        elif kind == 4:
            n = struct.unpack_from(">H", table, at + 6)[0] // 2
            ends, starts, deltas, ranges = (
                struct.unpack_from(f">{n}H", table, at + 14 + 2 * n * k + 2 * (k > 0)) for k in range(4)
            )
            for j in range(n):
                for code in range(starts[j], min(ends[j], 0xFFFE) + 1):
                    glyph = code
                    if ranges[j]:
                        slot = at + 16 + 6 * n + 2 * j + ranges[j] + 2 * (code - starts[j])
                        glyph = struct.unpack_from(">H", table, slot)[0]
                    if not ranges[j] or glyph:
                        glyphs[code] = (glyph + deltas[j]) % 65536
    return {code: glyph for code, glyph in glyphs.items() if glyph}
