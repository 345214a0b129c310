"""The index of a teacher store, from a sample's uid to its row: built once, mapped by every process that reads.

| tensor | type | holds |
|---|---|---|
| uid | u64[N] | every sample with embeddings, ascending |
| row | i64[N] | its row, counted through all shards |
| bad | u64[...] | every sample that could not be read, ascending |
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clip_jax.data.source import Source
from clip_jax.data.teacher_manifest import INDEX, MANIFEST, UNFINISHED, Manifest
from clip_jax.data.teacher_shards import CHECKSUM, FileInfo, map_tensors, write_tensors
from clip_jax.durable import write_durably


def finish_store(folder: str | Path, manifest: Manifest, shards: Sequence[FileInfo]) -> Manifest:
    """Writes the index and, last, the manifest with `shards`, which `write_shard` or `shard_info` told; returns it.

    Raises ValueError for a shard out of its place and a uid in two shards.
    """
    folder = Path(folder).expanduser()
    listed = dataclasses.replace(manifest, shards=tuple(shards))
    finished = dataclasses.replace(listed, index=write_tensors(folder / INDEX, build_index(folder, shards)))
    write_durably(folder / MANIFEST, [finished.to_json().encode()])
    remove_leftovers(folder)
    return finished


def remove_leftovers(folder: Path) -> None:
    """Takes away what only an unfinished store holds: its settings, shards half written, checksums of whole ones."""
    for left in (folder / UNFINISHED, *folder.glob(".*.draft"), *folder.glob(f"shard-*{CHECKSUM}")):
        left.unlink(missing_ok=True)


def build_index(folder: Path, shards: Sequence[FileInfo]) -> dict[str, np.ndarray]:
    """The tensors of the index. Raises ValueError for a uid that is in two shards."""
    uids, bad = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for shard in shards:
        tensors = map_tensors(folder / shard.file)
        uids.append(tensors["uid"].copy())  # of which Linux maps a process no more than some 65,000 files at once
        bad.append(tensors["bad"].copy())
    uid = np.concatenate(uids)
    order = np.argsort(uid, kind="stable")
    tensors = {"uid": uid[order], "row": order.astype(np.int64), "bad": np.sort(np.concatenate(bad))}
    every = np.sort(np.concatenate([tensors["uid"], tensors["bad"]]))
    twice = every[:-1][every[1:] == every[:-1]]
    if len(twice):
        pairs = zip(shards, uids[1:], bad[1:], strict=True)
        where = [shard.file for shard, good, lost in pairs if twice[0] in good or twice[0] in lost]
        raise ValueError(
            f"{folder}: uid {twice[0]} comes twice, in {' and '.join(where)}; a store holds each sample once"
        )
    return tensors


def places(wanted: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """Where each of u64[n] stands in u64[m], the first time it does: i64[n], -1 for what does not."""
    if not len(ascending):
        return np.full(wanted.shape, -1, np.int64)
    found = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    return np.where(ascending[found] == wanted, found, -1)


def distinct_samples(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """(uids u64[n], indices i64[n]): each distinct sample of a source where it comes first, in the source's order.

    A mixture repeats samples, and a table may; a store holds each once.
    """
    uids = np.fromiter((source.uid(index) for index in range(len(source))), np.uint64, len(source))
    _, first = np.unique(uids, return_index=True)
    first.sort()
    return uids[first], first.astype(np.int64)
