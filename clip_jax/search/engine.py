"""A query of words, a picture or both to the nearest pictures, by one model or by two side by side."""

import collections
import dataclasses
import re
import threading
from typing import Any

import numpy as np

from clip_jax.data.images import decode
from clip_jax.model import Model
from clip_jax.search.approximate import open_vectors
from clip_jax.search.indexing import identity
from clip_jax.search.store import IndexedModel, Store

TOP = 20
_AWAY = 0.5  # how much of the unwanted words' embedding is subtracted
_WITHOUT = re.compile(r"(?:^|[\s,]+(?:(?:and|but|or)\s+)?)without\s+", re.IGNORECASE)
_REMEMBERED = 256  # texts whose embeddings are kept: people type, delete and type again
_LARGEST_PICTURE = 40_000_000  # pixels of a picture searched by; an original of the index may have more


@dataclasses.dataclass(frozen=True, kw_only=True)
class Query:
    """text: words, and after "without" those that are not wanted. picture: encoded bytes. like: number of a picture in the
    index. Where several are given, the mean of their unit embeddings is searched for."""

    text: str = ""
    picture: bytes | None = None
    like: int | None = None


class Searcher:
    """One model with its vectors in memory. May be shared among threads."""

    def __init__(self, store: Store, indexed: IndexedModel, model: Model):
        """Raises ValueError where `model` is not the one that made the embeddings, or some are missing."""
        found, command = identity(model), f"clip-jax search index --model {indexed.source} FOLDER --out {store.out}"
        if found != indexed.identity:
            raise ValueError(
                f"{store.out} was made with other weights of {indexed.source}: theirs are {indexed.identity[:12]}, the model's "
                f"now {found[:12]}; bring them back, or index into a new folder"
            )
        self.name, self._model, self._vectors = indexed.source, model, open_vectors(store, indexed)
        if len(self._vectors) != store.count():
            raise ValueError(
                f"{len(self._vectors)} of {store.count()} pictures have embeddings of {indexed.source}; run {command}"
            )
        self._lock, self._texts = threading.Lock(), collections.OrderedDict[str, np.ndarray]()

    def top(self, query: Query) -> list[tuple[int, float]]:
        """(number, cosine) of the best TOP. Raises ValueError for an empty query or an unknown number, BadSample for a
        picture that does not decode or is too large."""
        parts = []
        if query.text.strip():
            parts.append(self._words(query.text))
        if query.picture is not None:
            pixels = decode(query.picture, max_pixels=_LARGEST_PICTURE)
            with self._lock:
                parts.append(self._model.encode_image([pixels])[0])
        if query.like is not None:
            found = self._vectors.vector(query.like)
            if found is None:
                raise ValueError(f"no picture {query.like} in this index")
            parts.append(found)
        if not parts:
            raise ValueError("the query is empty; give text, a picture, or the number of one")
        numbers, scores = self._vectors.top(_unit(np.sum(parts, axis=0)), TOP)
        return list(zip(numbers.tolist(), scores.tolist(), strict=True))

    def _words(self, text: str) -> np.ndarray:
        wanted, *unwanted = (part.strip() for part in _WITHOUT.split(text))
        found = self._text(wanted) if wanted else np.zeros(self._model.embed_dim, np.float32)
        for words in filter(None, unwanted):
            found = found - np.float32(_AWAY) * self._text(words)
        return _unit(found)

    def _text(self, text: str) -> np.ndarray:
        with self._lock:
            if text not in self._texts:
                self._texts[text] = self._model.encode_text([text])[0]
            self._texts.move_to_end(text)
            if len(self._texts) > _REMEMBERED:
                self._texts.popitem(last=False)
            return self._texts[text]


def pick(store: Store, source: str) -> IndexedModel:
    """The model of that source in the index, the first one for "". Raises ValueError that names the command to run."""
    models = store.models()
    for model in models:
        if source in ("", model.source):
            return model
    there = ", ".join(model.source for model in models) or "none"
    raise ValueError(
        f"{store.out} has no embeddings of {source or 'any model'} (it has: {there}); run "
        f"clip-jax search index --model {source or 'M'} FOLDER --out {store.out}"
    )


def answer(store: Store, searchers: list[Searcher], query: Query) -> dict[str, Any]:
    """What the page and the API get: for each model its results, and with two the share of results that both have."""
    models, found = [], []
    for searcher in searchers:
        results = []
        for number, cosine in searcher.top(query):
            name, width, height = store.about(number) or ("gone", 1, 1)
            results.append({"number": number, "cosine": cosine, "name": name[-300:], "width": width, "height": height})
        models.append({"model": searcher.name, "results": results})
        found.append({result["number"] for result in results})
    both = sorted(set.intersection(*found)) if len(found) > 1 else []
    share = len(both) / max(map(len, found)) if len(found) > 1 and all(found) else None
    return {"models": models, "both": both, "overlap": share}


def _unit(vector: np.ndarray) -> np.ndarray:
    return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)
