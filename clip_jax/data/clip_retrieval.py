"""Embeddings in clip-retrieval's layout, matched to a source's samples and made into shards of a teacher store.

A row belongs to the sample of the source `name` whose uid is sample_uid(name, K), where K is one of
| source | K |
|---|---|
| webdataset | SHARD/KEY: KEY the row's image_path or key, SHARD the name of any of the source's shards |
| table | PATH, a tab, CAPTION: PATH the row's image_path or a tail of it (b/c.jpg of /a/b/c.jpg), CAPTION its caption |
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from clip_jax.data import files
from clip_jax.data.clip_retrieval_files import Names, Parts
from clip_jax.data.source import BadSample, Source, sample_uid
from clip_jax.data.teacher_index import distinct_samples, places
from clip_jax.data.teacher_shards import ShardRows

_log = logging.getLogger(__name__)

_CHUNK = 4096  # rows matched at once
_PROBED = 32  # samples whose captions are compared


class ClipRetrieval:
    """The embeddings under `folder` of the samples of `source`, in the source's order.

    embed_dim: D. has_text: whether there are text embeddings; a sample then has the captions of all its rows. missing:
    samples without a row; they become the shards' `bad`, as do those whose image embedding is zero or not finite.

    Raises ValueError, with examples, for an incomplete layout, where no row belongs to any sample, and for a sample with a
    caption that was not embedded; FileNotFoundError where there is no such folder.
    """

    def __init__(self, folder: str | Path, source: Source):
        self._parts = parts = Parts(Path(folder).expanduser())
        self.embed_dim, self.has_text = parts.embed_dim, parts.has_text
        self._uids, self._indices = distinct_samples(source)
        if not len(self._uids):
            raise ValueError(f"source {source.name!r} is empty; give the data set that was embedded")
        matcher = _Matcher(source, np.sort(self._uids))
        matched = [(np.zeros(0, np.uint64), np.zeros(0, bool)), *map(matcher, parts.names(_CHUNK))]
        owner, found = (np.concatenate(column) for column in zip(*matched, strict=True))
        rows = np.flatnonzero(found)
        if not len(rows):
            first = next(iter(parts.names(1)), [Names("", "", "")])[0]
            raise ValueError(
                f"{parts.folder}: none of its {len(parts):,} rows belongs to any of the {len(self._uids):,} samples of "
                f"{source.name!r}. Its first row has image_path {first.image_path!r} and key {first.key!r}, the first sample "
                f"is in {source.shard(0)}; give the data set that was embedded, with the shard names and keys, or the paths "
                "and captions, that it had then"
            )
        self._rows = rows[np.argsort(owner[rows], kind="stable")]  # by uid, and of one uid in the parts' order
        self._owner = owner[self._rows]
        self.missing = int((self._first(self._uids) < 0).sum())
        if self.missing:
            _log.warning("%s: no row for %d of %d samples", parts.folder, self.missing, len(self._uids))
        if self.has_text:
            self._probe(source)

    def shards(self, rows_per_shard: int) -> Iterator[ShardRows]:
        """What `write_shard` takes, of `rows_per_shard` samples each: f32 rows of unit norm.

        Raises ValueError that names the row of a text embedding that is zero or not finite.
        """
        for start in range(0, len(self._uids), rows_per_shard):
            uids = self._uids[start : start + rows_per_shard]
            first = self._first(uids)
            image = _unit(self._parts.image(self._rows[np.maximum(first, 0)]))
            good = (first >= 0) & np.isfinite(image).all(-1)
            if unusable := int(((first >= 0) & ~good).sum()):
                _log.warning("%s: %d image embeddings are zero or not finite", self._parts.folder, unusable)
            captions, text = self._captioned(first[good]) if self.has_text else (None, None)
            yield ShardRows(uid=uids[good], image=image[good, None], captions=captions, text=text, bad=uids[~good])

    def _captioned(self, first: np.ndarray) -> tuple[list[list[str]], np.ndarray]:
        """(captions of each sample, their embeddings f32[C, D]) by where the samples' rows begin."""
        captions, rows = [], []
        for begin in first.tolist():
            end = begin + int(np.searchsorted(self._owner[begin:], self._owner[begin], side="right"))
            of_sample: dict[str, int] = {}
            for row in self._rows[begin:end].tolist():
                of_sample.setdefault(self._parts.caption(row), row)
            captions.append(list(of_sample))
            rows += of_sample.values()
        text = _unit(self._parts.text(np.array(rows, np.int64)))
        if len(wrong := np.flatnonzero(~np.isfinite(text).all(-1))):
            raise ValueError(
                f"{self._parts.folder}/text_emb: {self._parts.where(rows[int(wrong[0])])} is zero or not finite; remove "
                "text_emb to import images only"
            )
        return captions, text

    def _first(self, uids: np.ndarray) -> np.ndarray:
        """Where a uid's rows begin in `_rows`: i64[n], -1 for one without."""
        return places(uids, self._owner)

    def _probe(self, source: Source):
        """Training draws any caption of a sample, so each must have been embedded."""
        first = self._first(self._uids)
        there = np.flatnonzero(first >= 0)
        for place in there[np.unique(np.linspace(0, len(there) - 1, _PROBED).astype(int))].tolist():
            try:
                wanted = source[int(self._indices[place])].captions
            except BadSample:
                continue
            (present,), _ = self._captioned(first[place : place + 1])
            if lacking := [caption for caption in wanted if caption not in present]:
                raise ValueError(
                    f"{self._parts.folder}: sample {self._uids[place]} of {source.name!r} has the caption {lacking[0]!r}, "
                    f"which was not embedded; embedded are {present}. Set the source's text columns to those, or remove "
                    "text_emb to import images only"
                )


class _Matcher:
    """Rows of metadata -> uids of a source's samples, all of them given in ascending order."""

    def __init__(self, source: Source, uids: np.ndarray):
        self._source, self._uids = source.name, uids
        shards = list(dict.fromkeys(source.shard(index) for index in range(len(source))))
        bases = [files.base_name(shard) for shard in shards]
        repeat = len(set(bases)) < len(bases)
        self._shards = list(dict.fromkeys(tail for shard in shards for tail in _tails(shard))) if repeat else bases
        self._stems = {files.base_name(name).partition(".")[0]: name for name in self._shards}
        self._lengths = sorted({len(stem) for stem in self._stems}, reverse=True)

    def __call__(self, rows: Sequence[Names]) -> tuple[np.ndarray, np.ndarray]:
        """(uid u64[n], whether it has one bool[n])."""
        uids, found = np.zeros(len(rows), np.uint64), np.zeros(len(rows), bool)
        self._try([(i, text) for i, row in enumerate(rows) for text in self._likely(row)], uids, found)
        for shard in list(self._shards):
            left = np.flatnonzero(~found).tolist()
            if not left:
                break
            names = [(i, name) for i in left for name in (rows[i].image_path, rows[i].key) if name]
            if self._try([(i, f"{shard}/{name}") for i, name in names], uids, found):
                self._shards.remove(shard)
                self._shards.insert(0, shard)  # the next rows lie there, or close to it
        return uids, found

    def _likely(self, row: Names) -> Iterator[str]:
        for name in dict.fromkeys(filter(None, (row.image_path, row.key))):
            # img2dataset's names begin with the shard's number.
            stems = (self._stems.get(files.base_name(name)[:length]) for length in self._lengths)
            yield from (f"{shard}/{name}" for shard in stems if shard)
        for tail in _tails(row.image_path) if row.image_path else ():
            yield from (f"{tail}\t{text}" for text in dict.fromkeys((row.caption, row.caption.strip())))

    def _try(self, candidates: list[tuple[int, str]], uids: np.ndarray, found: np.ndarray) -> int:
        """Fills in what matches, the first that does for each row; says how many did."""
        made = np.array([sample_uid(self._source, text) for _, text in candidates], np.uint64)
        matching = np.flatnonzero(places(made, self._uids) >= 0)[::-1].tolist()
        for number in matching:
            row = candidates[number][0]
            uids[row], found[row] = made[number], True
        return len(matching)


def _unit(rows: np.ndarray) -> np.ndarray:
    """f32[n, D] of unit norm; NaN in a row that has no direction."""
    wide = rows.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (wide / np.linalg.norm(wide, axis=-1, keepdims=True)).astype(np.float32)


def _tails(path: str) -> list[str]:
    """a/b/c -> a/b/c, b/c, c."""
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]
