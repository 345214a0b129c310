"""Outside the training set: agreement with a teacher by how near a query is to the captions that were trained on."""

import dataclasses
import logging

import numpy as np

from clip_jax import ranking
from clip_jax.data.glyphs import GlyphsConfig
from clip_jax.data.source import BadSample, Source
from clip_jax.data.sources import SourceConfig, open_source
from clip_jax.evals.embed import Encoder, check_readable
from clip_jax.evals.lists import Lists, Queries, check_gallery, check_queries, in_common, lists_of, queries_of
from clip_jax.evals.protocol import Figure, OpenTeacher, Outcome, chunks

_log = logging.getLogger(__name__)
_BLOCK = 65_536  # captions whose embeddings are held at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnseenConfig:
    """teacher: a model, as clip_jax.load takes it. source: the gallery. trained: what the student was trained on.
    limit, trained_limit: their first samples only, 0 for all. queries: texts; the first caption of each image, equal ones
    once, when empty. top: results compared, k. bins: parts that the queries are cut into.

    Nearness is a query's largest cosine to a training caption, by the teacher's text tower, so that all students of one
    teacher have the same bins. Bins hold equally many queries, but for equal cosines, which share one.
    """

    teacher: str
    source: SourceConfig = GlyphsConfig(split="validation")
    trained: SourceConfig = GlyphsConfig()
    limit: int = 0
    trained_limit: int = 0
    queries: tuple[str, ...] = ()
    top: int = 20
    bins: int = 4


class Unseen:
    """The protocol over one opened gallery; the teacher reads it and the training captions once, when it is opened. Raises
    ValueError or FileNotFoundError for a teacher or data that cannot serve."""

    def __init__(self, config: UnseenConfig, load: OpenTeacher):
        if not config.teacher:
            raise ValueError("unseen needs a teacher: name a model, as clip_jax.load takes it")
        if config.top < 1:
            raise ValueError(f"top {config.top}: give a number of results of at least 1")
        if config.bins < 2:
            raise ValueError(f"bins {config.bins}: give a number of at least 2")
        if config.trained_limit < 0:
            raise ValueError(f"trained_limit {config.trained_limit}: give a number of samples, or 0 for all")
        check_queries(config.queries)
        self._config, self._source = config, open_source(config.source)
        check_readable(self._source)
        trained = open_source(config.trained)
        captions = _captions(trained, config.trained_limit)
        if not captions:
            raise ValueError(f"source {trained.name!r} gave no caption that was trained on; give another `trained`")
        encoder = load(config.teacher)
        self._teacher, queries = self._lists(encoder)
        self._nearest = np.full(len(queries.text), -np.inf, np.float32)
        for start in range(0, len(captions), _BLOCK):
            if start:
                _log.info("%s: %d of %d captions compared", trained.name, start, len(captions))
            some = nearest(queries.text, encoder.texts(captions[start : start + _BLOCK]))
            self._nearest = np.maximum(self._nearest, some)
        self._trained = len(captions)

    def __call__(self, encoder: Encoder) -> Outcome:
        """Means over each bin's queries, named by unseen_figures; precision over those with two relevant images or more.
        Bins without queries are left out. Raises ValueError for a gallery that is no larger than `top`."""
        top, (student, _) = self._config.top, self._lists(encoder)
        ours, theirs = in_common(student, self._teacher, self._source)
        cosine = self._nearest[theirs]
        place = binned(cosine, self._config.bins)
        same = np.concatenate(
            [ranking.overlap(student.top[ours[at]], self._teacher.top[theirs[at]]) for at in chunks(len(ours))]
        )
        several = (student.relevant[ours] > 1) & (self._teacher.relevant[theirs] > 1)
        figures = {}
        for number in range(self._config.bins):
            here, name = place == number, f"bin_{number + 1}"
            if not here.any():
                continue
            figures[f"cosine_{name}"] = Figure(value=float(cosine[here].mean()), chance=None)
            figures[f"{name}_overlap_at_{top}"] = Figure(
                value=float(same[here].mean()), chance=ranking.chance_overlap(top, student.images)
            )
            if (asked := here & several).any():
                figures[f"{name}_precision_at_{top}"] = Figure(
                    value=float(student.right[ours][asked].mean() / top),
                    chance=float(student.relevant[ours][asked].mean() / student.images),
                )
        counts = {
            "images": student.images,
            "queries": len(ours),
            "trained captions": self._trained,
            "unreadable": student.unreadable,
        }
        return Outcome(figures=figures, counts=counts)

    def _lists(self, encoder: Encoder) -> tuple[Lists, Queries]:
        found = encoder.source(self._source, limit=self._config.limit)
        check_gallery(found, self._config.top, self._source)
        queries = queries_of(found, encoder, self._config.queries, self._source)
        return lists_of(found, queries, self._config.top, self._source), queries


def unseen_figures(config: UnseenConfig) -> tuple[str, ...]:
    """Names of what is measured; bin_1 is the farthest from what was trained on."""
    return tuple(
        figure
        for number in range(1, config.bins + 1)
        for figure in (
            f"cosine_bin_{number}",
            f"bin_{number}_overlap_at_{config.top}",
            f"bin_{number}_precision_at_{config.top}",
        )
    )


def nearest(queries: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """Each query's largest cosine to a trained caption: unit-norm f32[Q, E], f32[T, E] -> f32[Q]."""
    best = np.full(len(queries), -np.inf, np.float32)
    for at in chunks(len(trained)):
        for rows in chunks(len(queries)):
            best[rows] = np.maximum(best[rows], (queries[rows] @ trained[at].T).max(axis=1))
    return best


def binned(cosine: np.ndarray, bins: int) -> np.ndarray:
    """Bin of each by quantiles, equal values in one: f32[Q] -> i64[Q] in [0, bins)."""
    # Rounded, for one text's embedding differs in its last bits between batches.
    value = np.round(cosine, 5)
    ordered = np.sort(value)
    twice = np.searchsorted(ordered, value) + np.searchsorted(ordered, value, side="right")  # the middle rank of equals
    return twice * bins // (2 * len(value))


def _captions(source: Source, limit: int) -> list[str]:
    """All different captions of the samples that can be read."""
    found = dict[str, None]()
    for index in range(min(limit, len(source)) if limit else len(source)):
        try:
            found.update(dict.fromkeys(text for text in source[index].captions if text.strip()))
        except BadSample:
            continue
    return list(found)
