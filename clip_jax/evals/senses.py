"""Several meanings: how many senses of a query, found among a teacher's first images, a student's first images cover.

A word such as "crane" has several pictures; a distilled student may keep the commonest alone.
"""

import dataclasses

import numpy as np

from clip_jax.data.glyphs import GlyphsConfig
from clip_jax.data.sources import SourceConfig, open_source
from clip_jax.evals.embed import Encoder, check_readable
from clip_jax.evals.lists import Lists, check_gallery, check_queries, in_common, lists_of, queries_of
from clip_jax.evals.protocol import Figure, OpenTeacher, Outcome

_ROUNDS = 50  # of k-means, at most; it stops where nothing moves


@dataclasses.dataclass(frozen=True, kw_only=True)
class SensesConfig:
    """teacher: a model, as clip_jax.load takes it. source: the gallery. limit: its first samples only, 0 for all.
    queries: texts; the first caption of each image, equal ones once, when empty. top: a student's results that count, k.
    pool: the teacher's first results, which are parted into `senses` groups.

    Senses are groups of the teacher's image embeddings (k-means on the sphere). An image that is not in the pool has none.
    """

    teacher: str
    source: SourceConfig = GlyphsConfig(split="validation")
    limit: int = 0
    queries: tuple[str, ...] = ()
    top: int = 20
    pool: int = 100
    senses: int = 4


class Senses:
    """The protocol over one opened gallery; the teacher reads it once, when it is opened. Raises ValueError or
    FileNotFoundError for a teacher or a gallery that cannot serve."""

    def __init__(self, config: SensesConfig, load: OpenTeacher):
        if not config.teacher:
            raise ValueError("senses need a teacher: name a model, as clip_jax.load takes it")
        if config.senses < 2:
            raise ValueError(f"senses {config.senses}: give a number of at least 2")
        if not 1 <= config.top <= config.pool:
            raise ValueError(f"top {config.top} of a pool of {config.pool}: give at least 1, and at most the pool")
        if config.pool < config.senses:
            raise ValueError(f"pool {config.pool} has no {config.senses} senses; use a larger pool, or fewer senses")
        check_queries(config.queries)
        self._config, self._source = config, open_source(config.source)
        check_readable(self._source)
        encoder = load(config.teacher)
        found = encoder.source(self._source, limit=config.limit)
        check_gallery(found, config.pool, self._source)
        self._teacher = lists_of(
            found, queries_of(found, encoder, config.queries, self._source), config.pool, self._source
        )
        row_of = {int(sample): row for row, sample in enumerate(found.index)}
        self._sense = np.array(
            [groups(found.image[[row_of[int(i)] for i in best]], config.senses) for best in self._teacher.top]
        )  # of each of the pool's images, i64[Q, pool]

    def __call__(self, encoder: Encoder) -> Outcome:
        """Means over the queries, named by sense_figures. Raises ValueError for a gallery that is no larger than `top`."""
        top, senses = self._config.top, self._config.senses
        student = self._lists(encoder)
        ours, theirs = in_common(student, self._teacher, self._source)
        pool, sense = self._teacher.top[theirs], self._sense[theirs]
        own = counted(pool[:, :top], pool, sense, senses)
        got = counted(student.top[ours], pool, sense, senses)
        there = counted(pool, pool, sense, senses)
        known = there > 0  # equal images make fewer senses than asked for
        covered, teachers = (((one > 0).sum(axis=1) / known.sum(axis=1)).mean() for one in (got, own))
        figures = {
            f"senses_covered_at_{top}": Figure(value=float(covered), chance=chance_covered(there, top, student.images)),
            f"teacher_senses_covered_at_{top}": Figure(value=float(teachers), chance=None),
        }
        if (whole := entropy(own).mean()) > 0:
            figures["entropy_ratio"] = Figure(value=float(entropy(got).mean() / whole), chance=None)
        counts = {"images": student.images, "queries": len(ours), "unreadable": student.unreadable}
        return Outcome(figures=figures, counts=counts)

    def _lists(self, encoder: Encoder) -> Lists:
        found = encoder.source(self._source, limit=self._config.limit)
        check_gallery(found, self._config.top, self._source)
        queries = queries_of(found, encoder, self._config.queries, self._source)
        return lists_of(found, queries, self._config.top, self._source)


def sense_figures(config: SensesConfig) -> tuple[str, ...]:
    """Names of what is measured. entropy_ratio, the mean entropy over the senses of the student's results by that of the
    teacher's own, may be above 1, and is left out where the teacher's is 0."""
    covered = f"senses_covered_at_{config.top}"
    return covered, f"teacher_{covered}", "entropy_ratio"


def groups(rows: np.ndarray, count: int) -> np.ndarray:
    """Group of each unit row by k-means on the sphere: f32[N, E] -> i64[N] in [0, count).

    The first row begins, then each time the one farthest from all beginnings: no chance in it.
    """
    centers = rows[:1]
    while len(centers) < count:
        nearest = (rows @ centers.T).max(axis=1)
        centers = np.concatenate([centers, rows[nearest.argmin()][None]])
    group = (rows @ centers.T).argmax(axis=1)
    for _ in range(_ROUNDS):
        sums = np.stack([rows[group == number].sum(axis=0) for number in range(count)])
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centers = np.where(norms > 0, sums / np.where(norms > 0, norms, 1), centers)
        moved = (rows @ centers.T).argmax(axis=1)
        if (moved == group).all():
            break
        group = moved
    return group


def counted(lists: np.ndarray, pool: np.ndarray, sense: np.ndarray, senses: int) -> np.ndarray:
    """Images of each sense in each list: i64[Q, k], and i64[Q, P] the pool and its senses -> i64[Q, senses]."""
    held = np.stack([np.isin(whole, some) for whole, some in zip(pool, lists, strict=True)])
    return (held[:, :, None] & (sense[:, :, None] == np.arange(senses))).sum(axis=1)


def entropy(counts: np.ndarray) -> np.ndarray:
    """Of shares, in nats; 0 where nothing was counted: i64[Q, S] -> f64[Q]."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1)


def chance_covered(counts: np.ndarray, top: int, images: int) -> float:
    """Share of the senses, with i64[Q, S] images each, that `top` images drawn from all are expected to hold."""
    from scipy.stats import hypergeom  # a second of importing, for this alone

    held = 1 - hypergeom.pmf(0, images, counts, top)
    return float((held.sum(axis=1) / (counts > 0).sum(axis=1)).mean())
