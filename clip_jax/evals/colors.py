"""Colour: whether an image prefers its caption to the same one in other colours, and whether colour queries find colour.

Queries with a colour are where distilled students were found to be weak; those without one are what they are compared with.
"""

import dataclasses

import numpy as np

from clip_jax import ranking
from clip_jax.data.glyphs import GlyphsConfig
from clip_jax.data.source import BadSample, Source
from clip_jax.data.sources import SourceConfig, open_source
from clip_jax.evals.color_words import COLORS, Told, query, told
from clip_jax.evals.embed import Encoder, check_readable
from clip_jax.evals.protocol import Figure, OpenTeacher, Outcome, chunks


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColorsConfig:
    """source: images of which some captions tell the colour. limit: its first samples only, 0 for all. teacher: a model, as
    clip_jax.load takes it, measured once, when the evaluation is opened; "" for none. top: results of a query, k.

    An image's colour is told by its first caption with exactly one of the eleven basic colour terms, which of glyphs is "an
    icon of a red bell". The gallery is the images whose colour is told. Colour queries are "a {colour} {noun}", the colours
    and nouns that occur together in those captions; noun queries the same without the colour.
    """

    source: SourceConfig = GlyphsConfig(split="validation")
    limit: int = 0
    teacher: str = ""
    top: int = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Measured:
    """One model's results. index: of the gallery's images in the source, i64[N]. swaps: captions in other colours that score
    below the own one, bool[N, 10]. color: COLORS' number of each image, i64[N]. by_color, by_noun: first results of colour
    queries and of the noun queries, each of which belongs to a colour query, as indices in the source, i64[Q, k].
    right: whether they have the query's colour, bool[Q, k]."""

    index: np.ndarray
    swaps: np.ndarray
    color: np.ndarray
    by_color: np.ndarray
    by_noun: np.ndarray
    right: np.ndarray
    unreadable: int


class Colors:
    """The protocol over one opened source, whose captions are read once. Raises ValueError or FileNotFoundError for a source
    or a teacher that cannot serve."""

    def __init__(self, config: ColorsConfig, load: OpenTeacher):
        if config.top < 1:
            raise ValueError(f"top {config.top}: give a number of results of at least 1")
        self._config, self._source = config, open_source(config.source)
        check_readable(self._source)
        found = _told(self._source, config.limit)
        self._enough(len(found))
        pairs = sorted({(one.color, one.noun) for one in found.values() if one.noun})
        if not pairs:
            raise ValueError(f"no caption of source {self._source.name!r} names what has the colour it tells")
        nouns = sorted({noun for _, noun in pairs})
        numbers: dict[str, int] = {}
        rows = [[numbers.setdefault(one.saying(c), len(numbers)) for c in COLORS] for one in found.values()]
        self._texts = list(numbers)
        self._captions = np.array(rows)  # of each image, the texts that say it in each colour: i64[N, 11]
        self._index = np.array(list(found), np.int64)
        self._color = np.array([COLORS.index(one.color) for one in found.values()])
        self._by_color = [query(noun, color) for color, noun in pairs]
        self._by_noun = [query(noun) for noun in nouns]
        self._noun_of = np.array([nouns.index(noun) for _, noun in pairs])
        self._color_of = np.array([COLORS.index(color) for color, _ in pairs])
        self._teacher = self._measure(load(config.teacher)) if config.teacher else None

    def __call__(self, encoder: Encoder) -> Outcome:
        """Figures named by color_figures. Raises ValueError for a gallery that is no larger than `top`."""
        student, top = self._measure(encoder), self._config.top
        figures = self._figures(student)
        if self._teacher is not None:
            figures |= {f"teacher_{name}": figure for name, figure in self._figures(self._teacher).items()}
            by_color = float(ranking.overlap(student.by_color, self._teacher.by_color).mean())
            by_noun = float(ranking.overlap(student.by_noun, self._teacher.by_noun).mean())
            chance = ranking.chance_overlap(top, len(student.index))
            figures[f"color_overlap_at_{top}"] = Figure(value=by_color, chance=chance)
            figures[f"noun_overlap_at_{top}"] = Figure(value=by_noun, chance=chance)
            figures[f"color_minus_noun_at_{top}"] = Figure(value=by_color - by_noun, chance=0.0)
        counts = {
            "images": len(student.index),
            "queries": len(self._by_color),
            "nouns": len(self._by_noun),
            "unreadable": student.unreadable,
        }
        return Outcome(figures=figures, counts=counts)

    def _figures(self, measured: _Measured) -> dict[str, Figure]:
        shares = np.bincount(measured.color, minlength=len(COLORS)) / len(measured.color)
        return {
            "swap_accuracy": Figure(value=float(measured.swaps.all(axis=1).mean()), chance=1 / len(COLORS)),
            "swap_pairwise": Figure(value=float(measured.swaps.mean()), chance=1 / 2),
            f"color_precision_at_{self._config.top}": Figure(
                value=float(measured.right.mean()), chance=float(shares[self._color_of].mean())
            ),
        }

    def _measure(self, encoder: Encoder) -> _Measured:
        found = encoder.source(self._source, captions=False, limit=self._config.limit)
        index, rows, ours = np.intersect1d(found.index, self._index, assume_unique=True, return_indices=True)
        self._enough(len(index))
        image, color, captions = found.image[rows], self._color[ours], self._captions[ours]
        text = encoder.texts(self._texts)
        others = np.arange(len(COLORS))[None, :] != color[:, None]
        swaps = []
        for at in chunks(len(index)):
            scores = np.einsum("ne,nce->nc", image[at], text[captions[at]])
            own = np.take_along_axis(scores, color[at, None], axis=1)
            swaps.append((own > scores)[others[at]].reshape(-1, len(COLORS) - 1))
        by_color = self._top(encoder.texts(self._by_color), image)
        by_noun = self._top(encoder.texts(self._by_noun), image)
        return _Measured(
            index=index,
            swaps=np.concatenate(swaps),
            color=color,
            by_color=index[by_color],
            by_noun=index[by_noun][self._noun_of],
            right=color[by_color] == self._color_of[:, None],
            unreadable=found.bad_count,
        )

    def _top(self, texts: np.ndarray, image: np.ndarray) -> np.ndarray:
        return np.concatenate([ranking.top_lists(texts[at] @ image.T, self._config.top) for at in chunks(len(texts))])

    def _enough(self, images: int) -> None:
        if images <= self._config.top:
            raise ValueError(
                f"{images} images of source {self._source.name!r} have a caption that tells their colour; the first "
                f"{self._config.top} of so few say nothing: use a larger source, or a smaller top"
            )


def color_figures(config: ColorsConfig) -> tuple[str, ...]:
    """Names of what is measured."""
    own = "swap_accuracy", "swap_pairwise", f"color_precision_at_{config.top}"
    if not config.teacher:
        return own
    compared = tuple(f"{what}_at_{config.top}" for what in ("color_overlap", "noun_overlap", "color_minus_noun"))
    return own + tuple(f"teacher_{name}" for name in own) + compared


def _told(source: Source, limit: int) -> dict[int, Told]:
    """Of each sample whose colour is told, by its index; samples that cannot be read are left out."""
    found = {}
    for index in range(min(limit, len(source)) if limit else len(source)):
        try:
            captions = source[index].captions
        except BadSample:
            continue
        one = next(filter(None, map(told, captions)), None)
        if one is not None:
            found[index] = one
    return found
