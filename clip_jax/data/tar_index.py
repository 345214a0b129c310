"""The index of a set of tar shards: which samples they hold and where their members lie, built once and cached."""

import collections
import dataclasses
import functools
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from clip_jax.data import files, mapped, tars

_log = logging.getLogger(__name__)

_ABSENT = 0xFFFFFFFF  # as a size: the sample has no such member
_THREADS = 16
_LOG_SECONDS = 10
_FORMAT = 2  # of the cached file; 2 has digests of shards

Span = tuple[int, int]  # offset and size, bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """The extensions to index. A sample needs one of `images` (the first that it has counts) and one of `captions`."""

    images: tuple[str, ...]
    captions: tuple[str, ...]
    extra: tuple[str, ...] = ()


class TarIndex:
    """Samples in the order of `urls` and, within a shard, of first appearance; members belong together by key.

    The key is a member's path up to the first dot of its base name. A sample takes 8 bytes, its key and 12 a column.
    cache: folder. The arrays are mapped from there, and a copy sent to another process maps them again; where nothing
    can be written they are kept in memory. Raises ValueError for a file that is no tar, and for an empty index.

    digests: of every shard, in hex: which samples it holds, in what order, and where their members lie.
    """

    digests: list[str]

    def __init__(
        self,
        name: str,
        urls: list[str],
        columns: Columns,
        *,
        cache: str,
        progress: Callable[[int, int], None] | None = None,
    ):
        stats = [list(entry) for entry in files.stat(urls)]
        self._name = name
        self._made_from = {"format": _FORMAT, "urls": urls, "stats": stats, "columns": _lists(columns)}
        key = json.dumps([[files.absolute(url) for url in urls], _lists(columns)]).encode()
        self._path = os.path.join(cache, f"index-{hashlib.blake2b(key, digest_size=12).hexdigest()}.bin")
        report = self._load(check=True)
        if report is None:
            report = self._build(urls, columns, progress)
        for warning in report["warnings"]:
            _log.warning("%s: %s", name, warning)
        _log.log(report["level"], "%s: %s", name, report["summary"])

    def __getstate__(self) -> dict[str, Any]:
        return {
            key: value for key, value in self.__dict__.items() if key not in ("_arrays", "digests") or not self._path
        }

    def __setstate__(self, state: dict[str, Any]):
        self.__dict__.update(state)
        if self._path and self._load(check=False) is None:
            raise RuntimeError(f"{self._name}: {self._path} is gone, or was rewritten for changed shards; start again")

    def __len__(self) -> int:
        return len(self._arrays["offset"])

    def shard(self, index: int) -> int:
        """The number of the shard that holds sample `index`."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self._name}: sample {index} of {len(self)}")
        return int(np.searchsorted(self._arrays["shard_end"], index, side="right"))

    def stat(self, shard: int) -> tuple[int, str]:
        """What `files.stat` told of a shard when it was indexed."""
        size, version = self._made_from["stats"][shard]
        return size, version

    def key(self, index: int) -> str:
        """What the sample's members are called in the shard, up to the first dot."""
        ends = self._arrays["key_end"]
        begin = int(ends[index - 1]) if index else 0
        return self._arrays["keys"][begin : int(ends[index])].tobytes().decode("utf-8", "surrogateescape")

    def spans(self, index: int) -> list[Span | None]:
        """Where the image, each of `captions` and each of `extra` lie in the shard; None for a member it lacks."""
        offsets, sizes = self._arrays["offset"][index], self._arrays["size"][index]
        return [
            (int(offset), int(size)) if size != _ABSENT else None for offset, size in zip(offsets, sizes, strict=True)
        ]

    def _load(self, *, check: bool) -> dict[str, Any] | None:
        try:
            meta, arrays = mapped.load(self._path, check=check)
        except (OSError, ValueError):
            return None
        if meta["made_from"] != self._made_from:
            return None
        self._arrays, self.digests = arrays, meta["report"]["digests"]
        return meta["report"]

    def _build(self, urls: list[str], columns: Columns, progress: Callable[[int, int], None] | None) -> dict[str, Any]:
        begun = said = time.monotonic()
        sizes = [size for size, _ in self._made_from["stats"]]
        shards: list[_Shard] = []
        with ThreadPoolExecutor(_THREADS) as pool:
            for shard in pool.map(functools.partial(_index_shard, columns=columns), urls, sizes):
                shards.append(shard)
                if progress is not None:
                    progress(len(shards), len(urls))
                if time.monotonic() - said > _LOG_SECONDS:
                    said = time.monotonic()
                    _log.info("%s: %d of %d shards indexed", self._name, len(shards), len(urls))
        report = _report(self._name, columns, shards)
        self.digests = report["digests"]
        self._arrays = {
            "offset": np.concatenate([shard.offset for shard in shards]),
            "size": np.concatenate([shard.size for shard in shards]),
            "keys": np.frombuffer(b"".join(key for shard in shards for key in shard.keys), np.uint8),
            "key_end": np.cumsum([len(key) for shard in shards for key in shard.keys], dtype=np.int64),
            "shard_end": np.cumsum([len(shard.keys) for shard in shards], dtype=np.int64),
        }
        _log.info("%s: %d shards indexed in %.1f s", self._name, len(shards), time.monotonic() - begun)
        try:
            mapped.save(self._path, {"made_from": self._made_from, "report": report}, self._arrays)
        except OSError as error:
            _log.info("%s: the index is kept in memory only: %s", self._name, error)
            self._path = ""
        return report


@dataclasses.dataclass
class _Shard:
    """One shard's samples. offset i64[n, columns], size u32[n, columns]: the image, captions, extra."""

    url: str
    keys: list[bytes]
    offset: np.ndarray
    size: np.ndarray
    problem: str
    no_image: int
    no_caption: int
    extensions: collections.Counter[str]

    def digest(self) -> str:
        """Of its keys and of where their members lie."""
        parts = (b"\0".join(self.keys), self.offset.tobytes(), self.size.tobytes())
        return hashlib.blake2b(b"".join(parts), digest_size=8).hexdigest()


def _index_shard(url: str, file_size: int, *, columns: Columns) -> _Shard:
    try:
        with files.open_stream(url) as stream:
            found, problem = tars.members(stream, file_size)
    except tars.NotATar as error:
        raise ValueError(f"{url} is no tar: {error}") from None
    wanted = [*columns.images, *columns.captions, *columns.extra]
    column_of = {extension: column for column, extension in enumerate(wanted)}
    rows: dict[str, list[Span]] = {}
    extensions = collections.Counter[str]()
    for name, offset, size in found:
        folder, _, base = name.removeprefix("./").rpartition("/")
        stem, _, extension = base.partition(".")
        extension = extension.lower()
        if not stem or not extension:
            continue
        extensions[extension] += 1
        row = rows.setdefault(f"{folder}/{stem}" if folder else stem, [(0, _ABSENT)] * len(wanted))
        if (column := column_of.get(extension)) is not None and size < _ABSENT:
            row[column] = (offset, size)
    table = np.array(list(rows.values()), np.int64).reshape(len(rows), len(wanted), 2)
    here, images = table[..., 1] != _ABSENT, len(columns.images)
    has_image = here[:, :images].any(1)
    has_caption = here[:, images : images + len(columns.captions)].any(1)
    kept = has_image & has_caption
    image = table[np.arange(len(rows)), here[:, :images].argmax(1)]
    table = np.concatenate([image[:, None], table[:, images:]], 1)[kept]
    return _Shard(
        url=url,
        keys=[key.encode("utf-8", "surrogateescape") for key, keep in zip(rows, kept, strict=True) if keep],
        offset=table[..., 0],
        size=table[..., 1].astype(np.uint32),
        problem=problem,
        no_image=int((~has_image).sum()),
        no_caption=int((has_image & ~has_caption).sum()),
        extensions=extensions,
    )


def _report(name: str, columns: Columns, shards: list[_Shard]) -> dict[str, Any]:
    """What is said of the index whenever it is opened. Raises ValueError where it would be empty."""
    used = sum(len(shard.keys) for shard in shards)
    if not used:
        found = sum((shard.extensions for shard in shards), collections.Counter())
        listed = ", ".join(f".{extension} ({count})" for extension, count in found.most_common(12)) or "no members"
        raise ValueError(
            f"{name}: no sample has an image and a caption. {len(shards)} shards hold {listed}; images are sought in "
            f".{', .'.join(columns.images)}, captions in .{', .'.join(columns.captions)}. Set images, text or json_keys"
        )
    no_image, no_caption = sum(shard.no_image for shard in shards), sum(shard.no_caption for shard in shards)
    left_out = f"; left out: {no_image} without image, {no_caption} without caption" if no_image + no_caption else ""
    return {
        "warnings": [
            f"{shard.url} is {shard.problem}; its {len(shard.keys)} samples before that are used"
            if shard.problem
            else f"{shard.url} holds no usable sample"
            for shard in shards
            if shard.problem or not shard.keys
        ],
        "level": logging.WARNING if left_out else logging.INFO,
        "summary": f"{used:,} samples in {len(shards)} shards{left_out}",
        "digests": [shard.digest() for shard in shards],
    }


def _lists(columns: Columns) -> list[list[str]]:
    """As JSON gives it back."""
    return [list(extensions) for extensions in dataclasses.astuple(columns)]
