"""Agreement with a teacher: for each query, how alike the two models' first results from one gallery are."""

import dataclasses

import numpy as np

from clip_jax import ranking
from clip_jax.data.glyphs import GlyphsConfig
from clip_jax.data.sources import SourceConfig, open_source
from clip_jax.evals.embed import Encoder, check_readable
from clip_jax.evals.lists import Lists, check_gallery, check_queries, in_common, lists_of, queries_of
from clip_jax.evals.protocol import Figure, OpenTeacher, Outcome, chunks


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgreementConfig:
    """teacher: a model, as clip_jax.load takes it. source: the gallery. limit: its first samples only, 0 for all.
    queries: texts; the first caption of each image, equal ones once, when empty. top: results compared, k.

    The teacher reads the gallery once, when the evaluation is opened, with its own resolution and tokenizer; what is kept
    of it is its lists.
    """

    teacher: str
    source: SourceConfig = GlyphsConfig(split="validation")
    limit: int = 0
    queries: tuple[str, ...] = ()
    top: int = 20


class Agreement:
    """The protocol over one opened gallery and the teacher's lists. Raises ValueError or FileNotFoundError for a teacher or a
    gallery that cannot serve."""

    def __init__(self, config: AgreementConfig, load: OpenTeacher):
        if not config.teacher:
            raise ValueError("agreement needs a teacher: name a model, as clip_jax.load takes it")
        if config.top < 2:
            raise ValueError(f"top {config.top}: give a number of results of at least 2")
        check_queries(config.queries)
        self._config, self._source = config, open_source(config.source)
        check_readable(self._source)
        self._teacher = self._lists(load(config.teacher))

    def __call__(self, encoder: Encoder) -> Outcome:
        """Means over the queries, named by agreement_figures; the precisions are over the queries with two relevant images
        or more, and left out without any. Raises ValueError for a gallery that is no larger than `top`."""
        student, teacher = self._lists(encoder), self._teacher
        ours, theirs = in_common(student, teacher, self._source)
        return Outcome(
            figures=self._alike(student, teacher, ours, theirs) | self._precise(student, teacher, ours, theirs),
            counts={"images": student.images, "queries": len(ours), "unreadable": student.unreadable},
        )

    def _alike(self, student: Lists, teacher: Lists, ours: np.ndarray, theirs: np.ndarray) -> dict[str, Figure]:
        top, images = self._config.top, student.images
        values = []
        for at in chunks(len(ours)):
            a, b = student.top[ours[at]], teacher.top[theirs[at]]
            values.append(np.stack([ranking.overlap(a, b), ranking.rbo(a, b), ranking.kendall(a, b)]))
        overlap, rbo, tau = np.concatenate(values, axis=1).mean(axis=1).tolist()
        return {
            f"overlap_at_{top}": Figure(value=overlap, chance=ranking.chance_overlap(top, images)),
            "rbo": Figure(value=rbo, chance=ranking.chance_rbo(top, images)),
            "kendall_tau": Figure(value=tau, chance=ranking.chance_kendall(top, images)),
        }

    def _precise(self, student: Lists, teacher: Lists, ours: np.ndarray, theirs: np.ndarray) -> dict[str, Figure]:
        asked = (student.relevant[ours] > 1) & (teacher.relevant[theirs] > 1)
        if not asked.any():
            return {}
        top, chance = self._config.top, float(student.relevant[ours][asked].mean() / student.images)
        found = (("", student.right[ours]), ("teacher_", teacher.right[theirs]))
        return {
            f"{whose}precision_at_{top}": Figure(value=float(right[asked].mean() / top), chance=chance)
            for whose, right in found
        }

    def _lists(self, encoder: Encoder) -> Lists:
        found = encoder.source(self._source, limit=self._config.limit)
        check_gallery(found, self._config.top, self._source)
        queries = queries_of(found, encoder, self._config.queries, self._source)
        return lists_of(found, queries, self._config.top, self._source)


def agreement_figures(config: AgreementConfig) -> tuple[str, ...]:
    """Names of what is measured; the precisions only where captions or labels are shared."""
    precision = f"precision_at_{config.top}"
    return f"overlap_at_{config.top}", "rbo", "kendall_tau", precision, f"teacher_{precision}"
