"""What the samples of a source are, in few words: equal where the stream is the same, and naming the shards where it is not."""

import hashlib
from collections.abc import Sequence

import numpy as np

from clip_jax.data import files
from clip_jax.data.mixture import Mixture
from clip_jax.data.source import Source
from clip_jax.data.table import Table
from clip_jax.data.webdataset import WebDataset

_PROBED = 1024  # uids of a source that is neither tars nor a table
_NAMED = 3

Part = tuple[str, str]


def contents(source: Source) -> list[Part]:
    """(name, digest in hex) of each part of a source, in order, wherever it lies and whenever it was copied.

    Of tars: each shard's keys, and where its members lie. Of a table: its bytes; those of its images are not looked at. Of
    other sources: the number of samples, and uids spread over all. Of a mixture: its sources' parts, and their turns.
    """
    own = [(source.name, _digest(source))]
    match source:
        case Mixture():
            return own + [part for inner in source.sources for part in contents(inner)]
        case WebDataset():
            return [(f"{source.name}/{name}", digest) for name, digest in source.shards()]
        case Table():
            return [(files.base_name(source.path), files.digest(source.path))]
    return own


def difference(before: Sequence[Part], now: Sequence[Part]) -> str:
    """What became of the parts, for a message: "of 40 parts: 2 changed (pets/00003.tar, ...), 1 missing (...)"; "" if
    nothing did."""
    if list(before) == list(now):
        return ""
    old, new = dict(before), dict(now)
    changed = [name for name in old if name in new and new[name] != old[name]]
    missing, added = [name for name in old if name not in new], [name for name in new if name not in old]
    found = {"changed": changed, "missing": missing, "new": added}
    said = [f"{len(names)} {what} ({_some(names)})" for what, names in found.items() if names]
    return f"of {len(before)} parts: {', '.join(said)}" if said else f"{len(before)} parts are in another order"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _digest(source: Source) -> str:
    probed = np.unique(np.linspace(0, len(source) - 1, min(_PROBED, len(source))).astype(np.int64)).tolist()
    uids = np.array([source.uid(index) for index in probed], np.uint64)
    return hashlib.blake2b(len(source).to_bytes(8, "little") + uids.tobytes(), digest_size=8).hexdigest()
