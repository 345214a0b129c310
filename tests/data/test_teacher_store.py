"""The teacher store: what is written is read, by uid, from any process and however many shards there are."""

import dataclasses
import os
import pickle
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_jax import durable
from clip_jax.data import teacher_store
from clip_jax.data.teacher_shards import ShardRows
from clip_jax.data.teacher_store import TeacherStore
from tests.handmade_store import DIM, FULL, PLAIN, ROWS, Pets, content, unit, write

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "store")
    return tmp_path / "store"


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("manifest", [PLAIN, FULL], ids=["plain", "full"])
def test_what_is_written_is_read(tmp_path, manifest, dtype):
    manifest = dataclasses.replace(manifest, dtype=dtype)
    finished = write(tmp_path / "s", manifest)
    store = TeacherStore(tmp_path / "s")
    assert store.manifest == finished
    assert (len(store), finished.rows, finished.bad) == (27, 27, 3)
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32
    for shard in content(manifest):
        rows = store.rows(shard.uid)
        for number in range(manifest.image_views):
            expected = shard.image[:, number].astype(kind).astype(np.float32)
            np.testing.assert_array_equal(store.image(rows, np.full(len(rows), number)), expected)
        assert store.image(rows, 0).dtype == np.float32
        if shard.view is not None:
            views = [[store.view(row, number).to_row() for number in range(2)] for row in rows.tolist()]
            np.testing.assert_array_equal(views, shard.view)
        if shard.captions is not None and shard.text is not None:
            flat = [(row, text) for row, of_row in zip(rows, shard.captions, strict=True) for text in of_row]
            found = store.text(np.array([row for row, _ in flat]), [text for _, text in flat])
            np.testing.assert_array_equal(found, shard.text.astype(kind).astype(np.float32))
        assert [store.is_bad(uid) for uid in (*shard.bad.tolist(), *shard.uid.tolist())] == [True] + [False] * 9
    assert store.image(np.zeros(0, np.int64)).shape == (0, DIM)


@settings(max_examples=40, deadline=None)
@given(
    stored=st.lists(st.integers(0, 2**64 - 1), max_size=40, unique=True),
    asked=st.lists(st.integers(0, 2**64 - 1), max_size=40),
    cuts=st.lists(st.integers(0, 40), min_size=2, max_size=2),
    data=st.data(),
)
def test_lookup_is_that_of_a_dict(tmp_path_factory, stored, asked, cuts, data):
    folder = tmp_path_factory.mktemp("lookup")
    first, second = sorted(cuts)
    parts = [np.array(part, np.uint64) for part in (stored[:first], stored[first:second], stored[second:])]
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable.os, "fsync", lambda _: None)  # most of the test's time
        write(folder, PLAIN, [ShardRows(uid=part, image=unit(rng, len(part), 1, DIM)) for part in parts])
    store = TeacherStore(folder)
    expected = {uid: row for row, uid in enumerate(stored)}
    asked += data.draw(st.lists(st.sampled_from(stored), max_size=40)) if stored else []
    rows = store.rows(np.array(asked, np.uint64))
    assert rows.dtype == np.int64
    assert rows.tolist() == [expected.get(uid, -1) for uid in asked]


def test_a_copy_is_small_and_reads_in_another_process_and_in_threads(folder):
    store = TeacherStore(folder)
    shard = content()[1]
    store.image(store.rows(shard.uid))
    copied = pickle.dumps(store)
    assert len(copied) < 4000
    expected = shard.image[:, 1].astype(ml_dtypes.bfloat16).astype(np.float32)
    script = (
        "import pickle, sys, numpy as np; store = pickle.loads(sys.stdin.buffer.read());"
        f"rows = store.rows(np.array({shard.uid.tolist()}, np.uint64)); assert 'jax' not in sys.modules;"
        "sys.stdout.buffer.write(store.image(rows, 1).tobytes())"
    )
    out = subprocess.run([sys.executable, "-c", script], input=copied, cwd=ROOT, capture_output=True, check=True)
    np.testing.assert_array_equal(np.frombuffer(out.stdout, np.float32).reshape(-1, DIM), expected)
    again = pickle.loads(copied)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: again.image(again.rows(shard.uid), 1), range(64)))
    for each in found:
        np.testing.assert_array_equal(each, expected)


def test_more_shards_than_may_be_mapped(folder, monkeypatch):
    monkeypatch.setattr(teacher_store, "_MAPPED_SHARDS", 1)
    store, rng = TeacherStore(folder), np.random.default_rng(0)
    rows = rng.permutation(27)
    uids = np.concatenate([shard.uid for shard in content()])
    image = np.concatenate([shard.image for shard in content()]).astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(store.rows(uids[rows]), rows)
    np.testing.assert_array_equal(store.image(rows, rows % 2), image[rows, rows % 2])


def test_a_store_of_more_shards_than_files_may_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr(durable.os, "fsync", lambda _: None)  # most of the test's time
    rng, count = np.random.default_rng(0), 600
    image = unit(rng, count, 1, DIM)
    shards = [
        ShardRows(uid=np.array([n + 1000], np.uint64), image=image[[n]], bad=np.array([n], np.uint64))
        for n in range(count)
    ]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = [int(name) for name in os.listdir("/dev/fd")]
    most = max(used) + 17
    assert most - len(used) < count
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        write(tmp_path / "s", PLAIN, shards)
        store = TeacherStore(tmp_path / "s")
        rows = rng.permutation(count)
        np.testing.assert_array_equal(store.rows(rows.astype(np.uint64) + 1000), rows)
        found = store.image(rows)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    np.testing.assert_array_equal(found, image[rows, 0].astype(ml_dtypes.bfloat16).astype(np.float32))


def test_what_the_store_does_not_have(tmp_path, folder):
    store, shard = TeacherStore(folder), content()[2]
    rows = store.rows(shard.uid)
    with pytest.raises(ValueError, match=f"sample {shard.uid[1]} has no caption 'a dog' among its 1"):
        store.text(rows[[2, 1]], [f"{shard.uid[2]} said 1", "a dog"])
    with pytest.raises(IndexError, match="row -1 or 3 of 27; -1 is a sample without one"):
        store.image(np.array([3, -1]))
    with pytest.raises(IndexError, match="view 0 or 2 of 2"):
        store.image(np.array([3, 4]), np.array([0, 2]))
    with pytest.raises(IndexError, match="view 2 of 2"):
        store.view(3, 2)
    plain = TeacherStore(tmp_path / "plain") if write(tmp_path / "plain", PLAIN) else None
    assert plain is not None
    with pytest.raises(ValueError, match="holds no text embeddings; make the store with clip-jax embed --captions"):
        plain.text(np.array([0]), ["a dog"])
    with pytest.raises(ValueError, match="holds no views"):
        plain.view(0, 0)


def test_a_store_of_another_data_set(tmp_path):
    shards = content()
    said = [[[f"{uid} said 0"] for uid in shard.uid.tolist()] for shard in shards]
    text = unit(np.random.default_rng(0), ROWS - 1, DIM)
    shards = [
        dataclasses.replace(shard, captions=captions, text=text) for shard, captions in zip(shards, said, strict=True)
    ]
    write(tmp_path / "s", FULL, shards)
    store = TeacherStore(tmp_path / "s")
    uids = np.concatenate([np.insert(shard.uid, 3, shard.bad) for shard in shards])
    store.check_source(Pets(uids))
    store.check_source(Pets(np.concatenate([uids, uids[:5]])))
    strange = np.array([1, 2, 3, 4, 5], np.uint64)
    with pytest.raises(ValueError, match="the store of another data set") as caught:
        store.check_source(Pets(np.concatenate([uids, strange, strange])))
    message = (
        "it lacks 5 of the 35 samples of 'pets', e.g. 1 in 00003.tar, 2 in 00003.tar, 3 in 00003.tar; it was made of"
    )
    assert message in str(caught.value)
    with pytest.raises(
        ValueError, match=rf"has no caption '{uids[0]} said 1' among its 1; the data set's captions have"
    ):
        store.check_source(Pets(uids, said=1))
    store.check_source(Pets(uids, generated=1))
    store.check_source(Pets(uids), synthetic=True)
    with pytest.raises(ValueError, match=rf"has no caption '{uids[0]} said 1' .* run clip-jax embed again"):
        store.check_source(Pets(uids, generated=1), synthetic=True)
