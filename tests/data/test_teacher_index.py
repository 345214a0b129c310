"""A store finished: the same bytes each time, shards in order, each sample once."""

import numpy as np
import pytest

from clip_jax.data.teacher_index import distinct_samples, finish_store
from clip_jax.data.teacher_manifest import read_unfinished, write_unfinished
from clip_jax.data.teacher_shards import shard_name, write_shard
from tests.handmade_store import FULL, SHARDS, Pets, content, hashes, refused, write


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "store")
    return tmp_path / "store"


def test_two_runs_write_the_same_bytes(tmp_path, folder):
    write(tmp_path / "again")
    assert hashes(tmp_path / "again") == hashes(folder)
    assert set(hashes(folder)) == {*map(shard_name, range(SHARDS)), "index.safetensors", "manifest.json"}


def test_a_killed_run_leaves_a_draft_that_the_next_one_removes(tmp_path, folder):
    other = tmp_path / "other"
    other.mkdir()
    write_unfinished(other, FULL)
    assert read_unfinished(other) == FULL
    shards = content()
    write_shard(other, 0, shards[0])
    (other / f".{shard_name(1)}.draft").write_bytes(b"half a shard")
    message = "1 shards and no manifest.json: embedding was not finished; run the same clip-jax embed command"
    assert message in refused(other)
    (other / f".{shard_name(9)}.draft").write_bytes(b"of a run in smaller shards")
    write(other)
    assert read_unfinished(other) is None
    assert hashes(other) == hashes(folder)


def test_distinct_samples_keep_the_sources_order():
    uids, indices = distinct_samples(Pets(np.array([9, 4, 9, 7, 4, 1], np.uint64)))
    assert uids.tolist() == [9, 4, 7, 1]
    assert indices.tolist() == [0, 1, 3, 5]
    assert uids.dtype == np.uint64


def test_shards_are_finished_in_order(tmp_path):
    infos = [write_shard(tmp_path, number, rows) for number, rows in enumerate(content())]
    with pytest.raises(ValueError, match=r"shard-00002.safetensors stands where shard-00001.safetensors belongs"):
        finish_store(tmp_path, FULL, [infos[0], infos[2]])
