"""A teacher store while it is written: one job at a time, shards shared among its processes, finished by the first."""

import shutil
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from clip_jax.data.teacher_index import finish_store, remove_leftovers
from clip_jax.data.teacher_items import ShardedSamples
from clip_jax.data.teacher_manifest import Manifest, read_begun, write_unfinished
from clip_jax.data.teacher_shards import DTYPES, FileInfo, ShardRows, map_tensors, shard_info, shard_name, write_shard
from clip_jax.run_folder import Lock, make_folder
from clip_jax.store_plan import check_plan

FEW_BAD = 10  # samples that never stop the work by themselves


class StoreWriting:
    """Opened by every process of a job; `close` it.

    finished: the manifest where nothing is left to do. missing: shards of all processes that are not there; own: of these,
    this process's, every P-th. max_bad_share: of the samples that this process knows of.

    Raises ValueError where another job writes there, for settings or samples other than those it was begun with, and for a
    disk too small.
    """

    def __init__(self, folder: Path, samples: ShardedSamples, plan: Manifest, max_bad_share: float):
        self.folder, self.samples, self.plan, self._max_bad_share = folder, samples, plan, max_bad_share
        self._infos: dict[int, FileInfo] = {}
        make_folder(folder)
        first = jax.process_index() == 0
        self._lock = Lock(folder) if first else None
        try:
            self.finished = check_plan(folder, plan)
            there = np.full(samples.shards, self.finished is not None)
            if first and self.finished:
                remove_leftovers(folder)
            elif first:
                self._infos = samples.written(folder, read_begun(folder))
                there[list(self._infos)] = True
                write_unfinished(folder, plan)
            # All must know the same: a file system may show the first process's shards to others at other times.
            there = np.asarray(multihost_utils.broadcast_one_to_all(there.astype(np.int32)), bool)
            self.missing: list[int] = np.flatnonzero(~there).tolist()
            self.own = self.missing[jax.process_index() :: jax.process_count()]
            self._check_space()
            present: list[int] = np.flatnonzero(there).tolist()
            self._bad = [map_tensors(folder / shard_name(shard))["bad"].copy() for shard in present]
            self._seen = sum(len(samples.of(shard)) for shard in present)
        except BaseException:
            self.close()
            raise

    def _check_space(self) -> None:
        """The images' embeddings alone, of all processes."""
        count = sum(len(self.samples.of(shard)) for shard in self.missing)
        needed = count * self.plan.image_views * self.plan.teacher.embed_dim * DTYPES[self.plan.dtype].itemsize
        if needed > (free := shutil.disk_usage(self.folder).free):
            raise ValueError(
                f"{self.folder} has {free / 1e9:.1f} GB free; the images' embeddings need {needed / 1e9:.1f} GB. Free some, "
                "choose another folder, or store fewer views"
            )

    def write(self, shard: int, rows: ShardRows) -> None:
        """Raises ValueError for rows that are none of a store's; RuntimeError, once they are written, where too many
        samples cannot be read."""
        self._infos[shard] = write_shard(self.folder, shard, rows, dtype=self.plan.dtype)
        self._bad.append(rows.bad)
        self._seen += len(self.samples.of(shard))
        bad = sum(map(len, self._bad))
        if bad > max(FEW_BAD, self._max_bad_share * self._seen) or bad == self._seen:
            files = self.samples.files(np.concatenate(self._bad)).most_common(5)
            raise RuntimeError(
                f"{bad:,} of {self._seen:,} samples cannot be used, more than max_bad_share {self._max_bad_share:.1%}; "
                f"worst: {', '.join(f'{file} ({count:,})' for file, count in files)}. Mend the data and begin anew in another "
                "folder, or go on with a larger --max_bad_share: what is written stays"
            )

    def finish(self) -> Manifest:
        """Waits for all processes; the first writes index and manifest, the others get the plan back.

        Raises RuntimeError where a shard is not there after all, ValueError where it is not as its process wrote it.
        """
        multihost_utils.sync_global_devices("all shards are written")
        if jax.process_index() > 0:
            return self.plan
        shards = range(self.samples.shards)
        if lost := [shard_name(n) for n in shards if not (self.folder / shard_name(n)).is_file()]:
            raise RuntimeError(f"{self.folder}: {lost[0]} is not there, though it was written; run the same again")
        return finish_store(
            self.folder, self.plan, [self._infos.get(n) or shard_info(self.folder / shard_name(n)) for n in shards]
        )

    def close(self) -> None:
        """Lets the next one in."""
        if self._lock:
            self._lock.close()
