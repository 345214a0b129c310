"""What people look at: the best pictures for written queries, the similarity matrix, and where retrieval went wrong."""

import dataclasses

import numpy as np

from clip_jax import metrics, ranking
from clip_jax.data.glyphs import GlyphsConfig
from clip_jax.data.images import decode, preprocess
from clip_jax.data.source import Source
from clip_jax.data.sources import SourceConfig, open_source
from clip_jax.evals.embed import Embedded, Encoder, check_readable
from clip_jax.evals.protocol import Outcome, first_captions

_MATRIX = 24  # pairs in the similarity matrix
_FAILURES = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShowcaseConfig:
    """source: the gallery. queries: texts to search it with. limit: its first samples only, 0 for all. top: pictures a
    query. size: pixels a side of the pictures kept for the report."""

    source: SourceConfig = GlyphsConfig(split="validation")
    queries: tuple[str, ...] = ()
    limit: int = 0
    top: int = 5
    size: int = 64


class Showcase:
    """Pictures for a report, no figures."""

    def __init__(self, config: ShowcaseConfig):
        if not config.queries:
            raise ValueError("a showcase needs queries: give at least one text")
        self._config, self._source = config, open_source(config.source)
        check_readable(self._source)

    def __call__(self, encoder: Encoder) -> Outcome:
        """pictures: queries str[Q], query_scores f32[Q, top], query_images u8[Q, top, S, S, 3]; matrix f32[M, M],
        matrix_texts str[M], matrix_images u8[M, S, S, 3]; failed_texts str[F], failed_ranks i64[F], failed_wanted
        and failed_got u8[F, S, S, 3]."""
        found = encoder.source(self._source, limit=self._config.limit)
        if not len(found.caption):
            raise ValueError(f"source {self._source.name!r} gave no readable pair; nothing to show")
        pictures = self._for_queries(found, encoder) | self._matrix(found) | self._failures(found)
        counts = {"images": len(found.image), "queries": len(self._config.queries), "unreadable": found.bad_count}
        return Outcome(figures={}, counts=counts, pictures=pictures)

    def _for_queries(self, found: Embedded, encoder: Encoder) -> dict[str, np.ndarray]:
        scores = encoder.texts(self._config.queries) @ found.image.T
        best = ranking.top_lists(scores, self._config.top)
        return {
            "queries": np.array(self._config.queries),
            "query_scores": np.take_along_axis(scores, best, axis=1),
            "query_images": self._pictures(found.index[best]),
        }

    def _matrix(self, found: Embedded) -> dict[str, np.ndarray]:
        first = first_captions(found)
        rows = np.linspace(0, len(first) - 1, min(_MATRIX, len(first))).astype(int)
        chosen = first[rows]
        owners = found.owner[chosen]
        return {
            "matrix": found.caption[chosen] @ found.image[owners].T,
            "matrix_texts": self._texts(found, chosen),
            "matrix_images": self._pictures(found.index[owners]),
        }

    def _failures(self, found: Embedded) -> dict[str, np.ndarray]:
        first = first_captions(found)
        scores = found.caption[first] @ found.image.T
        key, right = found.key[first], np.zeros_like(scores, bool)
        right[:, found.owner[first]] = key[:, None] == key  # another picture with the same caption is no mistake
        rank = metrics.ranks(scores, right)
        worst = np.argsort(-rank, kind="stable")[:_FAILURES]
        worst = worst[rank[worst] > 0]
        chosen = first[worst]
        return {
            "failed_texts": self._texts(found, chosen),
            "failed_ranks": rank[worst] + 1,
            "failed_wanted": self._pictures(found.index[found.owner[chosen]]),
            "failed_got": self._pictures(found.index[scores[worst].argmax(axis=1)]),
            "failed_of": np.array([int((rank > 0).sum()), len(first)]),
        }

    def _texts(self, found: Embedded, captions: np.ndarray) -> np.ndarray:
        return np.array([self._source[int(found.index[found.owner[row]])].captions[0] for row in captions])

    def _pictures(self, indices: np.ndarray) -> np.ndarray:
        flat = [_picture(self._source, int(index), self._config.size) for index in indices.reshape(-1)]
        size = self._config.size
        return np.array(flat, np.uint8).reshape(*indices.shape, size, size, 3)


def _picture(source: Source, index: int, size: int) -> np.ndarray:
    image = source[index].image
    return preprocess(decode(image) if isinstance(image, bytes) else image, size, resize_mode="longest", fill_color=255)
