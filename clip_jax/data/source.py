"""What a source of image-text samples is: a list with random access, and nothing more."""

import dataclasses
import hashlib
from typing import Protocol

import numpy as np


class BadSample(Exception):
    """One sample cannot be used. The pipeline replaces it, counts it and logs `reason`; it never stops a run by itself."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """One image with what is said of it.

    uid: sample_uid(source, key). image: encoded bytes (JPEG, PNG, WebP, ...) or a u8[H, W, 3] array.
    captions: at least one text, of which training draws one per visit. label: index into the source's `classes`.
    synthetic: texts that a model wrote of the image, kept apart from captions; most sources have none.
    """

    uid: int
    image: bytes | np.ndarray
    captions: tuple[str, ...]
    label: int | None = None
    synthetic: tuple[str, ...] = ()


class Source(Protocol):
    """Random access to samples; safe to call from several threads, picklable, and cheap to unpickle in a worker process.

    name: stands in uids and messages. classes: class names where samples carry labels, else ().
    """

    name: str
    classes: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` in [0, len). Raises BadSample for one that cannot be read."""
        ...

    def shard(self, index: int) -> str:
        """The file (or part of a data set) that holds sample `index`, as messages name it."""
        ...

    def uid(self, index: int) -> int:
        """The uid of sample `index`, known even when the sample itself cannot be read."""
        ...


def sample_uid(source: str, key: str) -> int:
    """A stable 64-bit name of a sample: blake2b over the source's name and the sample's key within it."""
    digest = hashlib.blake2b(f"{source}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
