"""Image-text pairs in tar shards, as img2dataset writes them, read in any order through an index of offsets."""

import dataclasses
import functools
import json
import os
from collections.abc import Callable
from typing import Any

from clip_jax.data import files, tars
from clip_jax.data.source import BadSample, Sample, sample_uid
from clip_jax.data.tar_index import Columns, TarIndex

_OPEN_FILES = 256  # a process may hold 1,024 by default
_LABEL_DIGITS = 18  # that an index in KEY.cls may have
_GAP = 64 << 10  # bytes: members of a sample that lie no farther apart than this are read at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class WebDatasetConfig:
    """Which shards, and which of a sample's members (KEY.extension) are its image and its captions.

    urls: tars, local or remote, with {00000..00041} ranges or wildcards. name: stands in uids; keep it when data move.
    images: extensions, the first that a sample has. text: extensions of captions, one each, of all that it has.
    json_keys: fields of KEY.json that are captions: a text, a list of texts, or texts by language. synthetic_keys: those
    that are generated captions, in the same forms, of which a sample may have none.
    classes: names for KEY.cls, which holds an index or a name. index_cache: folder, by default the user's cache.
    """

    urls: str | tuple[str, ...]
    name: str
    images: tuple[str, ...] = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
    text: tuple[str, ...] = ("txt",)
    json_keys: tuple[str, ...] = ()
    synthetic_keys: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    index_cache: str = ""

    def __post_init__(self):
        if not self.images or not (self.text or self.json_keys):
            raise ValueError(f"{self.name}: give extensions of images, and of text or json_keys")
        if both := set(self.json_keys) & set(self.synthetic_keys):
            raise ValueError(f"{self.name}: {sorted(both)} in json_keys and synthetic_keys; keep each in one of them")


class WebDataset:
    """A Source over tar shards. The first construction reads all headers; later ones read the cached index.

    A sample's uid comes from the shard's base name and its key (where base names repeat, from the path below the folder
    that all shards share). Samples without image or caption are left out and counted in one log line.
    progress: called with (shards indexed, shards).
    """

    def __init__(self, config: WebDatasetConfig, *, progress: Callable[[int, int], None] | None = None):
        self.name, self.classes, self._config = config.name, config.classes, config
        self._urls = files.expand(config.urls)
        self._names = _distinct_names(self._urls)
        cache = config.index_cache or os.path.join(
            os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "clip_jax"
        )
        captions, extra = config.text, ("cls",) if config.classes else ()
        if config.json_keys:
            captions = (*captions, "json")
        elif config.synthetic_keys:
            extra = ("json", *extra)  # in the same place of a sample's parts, though it makes no sample by itself
        columns = Columns(images=config.images, captions=captions, extra=extra)
        self._index = TarIndex(config.name, self._urls, columns, cache=cache, progress=progress)
        self._open = functools.lru_cache(_OPEN_FILES)(files.Reader)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_open"}

    def __setstate__(self, state: dict[str, Any]):
        self.__dict__.update(state)
        self._open = functools.lru_cache(_OPEN_FILES)(files.Reader)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Sample:
        """The encoded image and its captions. Raises BadSample for bytes that cannot be read and for empty captions."""
        uid = self.uid(index)
        try:
            image, *parts = self._members(index)
        except OSError as error:
            raise BadSample(f"cannot be read: {error}") from error
        texts = parts[: len(self._config.text)]
        captions = [_decode(text) for text in texts if text is not None]
        synthetic: list[str] = []
        if self._config.json_keys or self._config.synthetic_keys:
            fields = _fields(parts[len(self._config.text)])
            captions += _texts(fields, self._config.json_keys)
            synthetic = _texts(fields, self._config.synthetic_keys)
        captions = _distinct(captions)
        if not captions:
            raise BadSample("empty caption")
        assert image is not None
        label = self._label(parts[-1]) if self.classes and parts[-1] is not None else None
        return Sample(uid=uid, image=image, captions=captions, label=label, synthetic=_distinct(synthetic))

    def shard(self, index: int) -> str:
        """The shard's full name."""
        return self._urls[self._index.shard(index)]

    def uid(self, index: int) -> int:
        """From the config's name, the shard's base name and the key."""
        return sample_uid(self.name, f"{self._names[self._index.shard(index)]}/{self._index.key(index)}")

    def shards(self) -> list[tuple[str, str]]:
        """(name, digest) of every shard in order: the name that uids have, and TarIndex.digests."""
        return list(zip(self._names, self._index.digests, strict=True))

    def _members(self, index: int) -> list[bytes | None]:
        """The bytes of every column, None where the sample lacks the member; one read where they lie close together.

        Raises OSError for a shard that is not the one that was indexed: by size and time of a local file, by the members'
        headers of a remote one.
        """
        spans = self._index.spans(index)
        present = [span for span in spans if span is not None]
        begin, end = min(offset for offset, _ in present), max(offset + size for offset, size in present)
        number = self._index.shard(index)
        file = self._open(self._urls[number], self._index.stat(number))
        head = 0 if file.is_local else tars.HEADER
        key = self._index.key(index)
        apart = end - begin > sum(size for _, size in present) + _GAP
        block = b"" if apart else file.read(begin - head, end - begin + head)
        found: list[bytes | None] = []
        for span in spans:
            if span is None:
                found.append(None)
                continue
            offset, size = span
            at = offset - begin
            data = file.read(offset - head, size + head) if apart else block[at : at + head + size]
            if head and not tars.is_header_of(data[:head], key, size):
                raise OSError("the file has changed since it was opened first")
            found.append(data[head:])
        return found

    def _label(self, data: bytes) -> int:
        text = _decode(data).strip()
        if text in self.classes:
            return self.classes.index(text)
        if not text.isdecimal() or len(text) > _LABEL_DIGITS or int(text) >= len(self.classes):
            raise BadSample(f"label {text[:40]!r} is none of {len(self.classes)} classes")
        return int(text)


def _decode(text: bytes) -> str:
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSample(f"text is not UTF-8: {error}") from error


def _fields(data: bytes | None) -> dict[str, Any]:
    """What KEY.json holds; nothing where there is none, or no object in it."""
    try:
        fields = json.loads(b"{}" if data is None else data)
    except (ValueError, RecursionError) as error:
        raise BadSample(f"its json does not parse: {error}") from error
    return fields if isinstance(fields, dict) else {}


def _texts(fields: dict[str, Any], keys: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    for value in map(fields.get, keys):
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        found.extend(text for text in values if isinstance(text, str))
    return found


def _distinct(texts: list[str]) -> tuple[str, ...]:
    """Without empty ones and repetitions, in order."""
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))


def _distinct_names(urls: list[str]) -> list[str]:
    """Base names; or, where two shards share one, the paths below the folder that all shards are in."""
    names = [files.base_name(url) for url in urls]
    if len(set(names)) == len(set(urls)):
        return names
    parts = [url.split("/") for url in urls]
    depth = next(level for level, column in enumerate(zip(*parts, strict=False)) if len(set(column)) > 1)
    return ["/".join(part[depth:]) for part in parts]
