"""Agreement with a teacher: for each query, how alike the two models' first results from one gallery are."""

import dataclasses

import numpy as np
import scipy.sparse

from clip_jax import ranking
from clip_jax.data.glyphs import GlyphsConfig
from clip_jax.data.sources import SourceConfig, open_source
from clip_jax.evals.embed import Embedded, Encoder, check_readable, normal_caption_key
from clip_jax.evals.protocol import Figure, OpenTeacher, Outcome, chunks, first_captions


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Lists:
    """One model's results for Q queries over a gallery of `images`.

    key: of each query, u64[Q], ascending. top: of each the first results as indices in the source, i64[Q, k]. right: how
    many of these are relevant, i64[Q]. relevant: how many there are, i64[Q].
    """

    key: np.ndarray
    top: np.ndarray
    right: np.ndarray
    relevant: np.ndarray
    images: int
    unreadable: int


class Agreement:
    """The protocol over one opened gallery and the teacher's lists. Raises ValueError or FileNotFoundError for a teacher or a
    gallery that cannot serve."""

    def __init__(self, config: AgreementConfig, load: OpenTeacher):
        if not config.teacher:
            raise ValueError("agreement needs a teacher: name a model, as clip_jax.load takes it")
        if config.top < 2:
            raise ValueError(f"top {config.top}: give a number of results of at least 2")
        if empty := [text for text in config.queries if not text.strip()]:
            raise ValueError(f"queries hold {empty[0]!r}; give texts, or no queries for the captions")
        self._config, self._source = config, open_source(config.source)
        check_readable(self._source)
        self._teacher = self._lists(load(config.teacher))

    def __call__(self, encoder: Encoder) -> Outcome:
        """Means over the queries, named by agreement_figures; the precisions are over the queries with two relevant images
        or more, and left out without any. Raises ValueError for a gallery that is no larger than `top`."""
        student, teacher = self._lists(encoder), self._teacher
        key, ours, theirs = np.intersect1d(student.key, teacher.key, assume_unique=True, return_indices=True)
        if not len(key):
            raise ValueError(f"source {self._source.name!r}: teacher and student could read no query in common")
        return Outcome(
            figures=self._alike(student, teacher, ours, theirs) | self._precise(student, teacher, ours, theirs),
            counts={"images": student.images, "queries": len(key), "unreadable": student.unreadable},
        )

    def _alike(self, student: _Lists, teacher: _Lists, ours: np.ndarray, theirs: np.ndarray) -> dict[str, Figure]:
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

    def _precise(self, student: _Lists, teacher: _Lists, ours: np.ndarray, theirs: np.ndarray) -> dict[str, Figure]:
        asked = (student.relevant[ours] > 1) & (teacher.relevant[theirs] > 1)
        if not asked.any():
            return {}
        top, chance = self._config.top, float(student.relevant[ours][asked].mean() / student.images)
        found = (("", student.right[ours]), ("teacher_", teacher.right[theirs]))
        return {
            f"{whose}precision_at_{top}": Figure(value=float(right[asked].mean() / top), chance=chance)
            for whose, right in found
        }

    def _lists(self, encoder: Encoder) -> _Lists:
        found = encoder.source(self._source, limit=self._config.limit)
        images, top = len(found.image), self._config.top
        if images <= top:
            raise ValueError(
                f"source {self._source.name!r} gave {images} readable images; the first {top} of so few say nothing: use a "
                "larger gallery, or a smaller top"
            )
        key, label, text = self._queries(found, encoder)
        shown = _shown(key, found)
        lists, right, relevant = [], [], []
        for at in chunks(len(key)):
            best = ranking.top_lists(text[at] @ found.image.T, top)
            known = label[at, None] >= 0
            true = (shown[at].toarray() > 0) | (known & (label[at, None] == found.label[None, :]))
            lists.append(found.index[best])
            right.append(np.take_along_axis(true, best, axis=1).sum(axis=1))
            relevant.append(true.sum(axis=1))
        return _Lists(
            key=key,
            top=np.concatenate(lists),
            right=np.concatenate(right),
            relevant=np.concatenate(relevant),
            images=images,
            unreadable=found.bad_count,
        )

    def _queries(self, found: Embedded, encoder: Encoder) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each query its key u64[Q], ascending, the label that makes an image relevant i64[Q], -1 for none, and its
        unit-norm embedding f32[Q, E]."""
        texts = self._config.queries
        if texts:
            keys, labels = np.array([normal_caption_key(text) for text in texts], np.uint64), np.full(len(texts), -1)
            embeddings = encoder.texts(texts)
        else:
            first = first_captions(found)
            keys, labels, embeddings = found.key[first], found.label[found.owner[first]], found.caption[first]
        if not len(keys):
            raise ValueError(f"source {self._source.name!r} gave no readable image with a caption; give `queries`")
        key, rows = np.unique(keys, return_index=True)
        return key, labels[rows], embeddings[rows]


def agreement_figures(config: AgreementConfig) -> tuple[str, ...]:
    """Names of what is measured; the precisions only where captions or labels are shared."""
    precision = f"precision_at_{config.top}"
    return f"overlap_at_{config.top}", "rbo", "kendall_tau", precision, f"teacher_{precision}"


def _shown(key: np.ndarray, found: Embedded) -> scipy.sparse.csr_array:
    """Above 0 where an image has a caption equal to a query: [Q, N]."""
    place = np.minimum(np.searchsorted(key, found.key), len(key) - 1)
    same = key[place] == found.key
    ones = np.ones(int(same.sum()), np.int64)
    return scipy.sparse.csr_array((ones, (place[same], found.owner[same])), shape=(len(key), len(found.image)))
