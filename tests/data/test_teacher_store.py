"""The teacher store: what is written is read, by uid; whatever is wrong with it is an error that says what and where."""

import dataclasses
import json
import logging
import os
import pickle
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from clip_jax import durable
from clip_jax.data import teacher_shards, teacher_store
from clip_jax.data.images import Augmentation
from clip_jax.data.source import BadSample, Sample
from clip_jax.data.teacher_index import distinct_samples, finish_store
from clip_jax.data.teacher_manifest import (
    MANIFEST,
    FileInfo,
    Manifest,
    SourceInfo,
    StoredViews,
    TeacherInfo,
    differences,
    read_manifest,
    read_unfinished,
    view_differences,
    write_unfinished,
)
from clip_jax.data.teacher_shards import (
    ShardRows,
    caption_key,
    map_tensors,
    shard_info,
    shard_name,
    write_shard,
    write_tensors,
)
from clip_jax.data.teacher_store import TeacherStore

ROOT = Path(__file__).parents[2]
DIM, ROWS, SHARDS = 24, 10, 3
VIEWS = StoredViews(count=2, seed=5, augmentation=Augmentation(scale=(0.3, 1.0), flip=0.5))
PLAIN = Manifest(
    teacher=TeacherInfo(name="ViT-B-32", weights_hash="ab12", embed_dim=DIM, logit_scale=4.6, model={"width": [1, 2]}),
    tokenizer="cd34",
    preprocessing={"size": 32, "mean": [0.5, 0.4, 0.3]},
    source=SourceInfo(name="pets", samples=ROWS * SHARDS, config={"kind": "table", "path": "pets.csv"}),
    rows_per_shard=ROWS,
)
FULL = dataclasses.replace(PLAIN, views=VIEWS, captions=True)


class Pets:
    """A source of thirty samples, of which one in ten cannot be read. said, generated: part of the captions of each kind."""

    name, classes = "pets", ()

    def __init__(self, uids: np.ndarray, said: int = 0, generated: int = 0):
        self.uids, self.said, self.generated = uids.tolist(), said, generated

    def __len__(self) -> int:
        return len(self.uids)

    def __getitem__(self, index: int) -> Sample:
        if index % ROWS == 3:
            raise BadSample("damaged")
        said, generated = (f"{self.uids[index]} said {number}" for number in (self.said, self.generated))
        return Sample(uid=self.uids[index], image=b"", captions=(said,), synthetic=(generated,))

    def shard(self, index: int) -> str:
        return f"{index // ROWS:05d}.tar"

    def uid(self, index: int) -> int:
        return self.uids[index]


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    rows = rng.standard_normal(shape)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def content(manifest: Manifest = FULL, seed: int = 0) -> list[ShardRows]:
    """Of every shard; the sample 3 of each could not be read, and sample r has r % 3 captions."""
    rng = np.random.default_rng(seed)
    shards = []
    for uids in rng.integers(0, 2**64, (SHARDS, ROWS), np.uint64):
        good = np.delete(uids, 3)
        captions = [[f"{uid} said {n}" for n in range(row % 3)] for row, uid in enumerate(good.tolist())]
        rows = ShardRows(uid=good, image=unit(rng, len(good), manifest.image_views, DIM), bad=uids[3:4])
        if manifest.views:
            drawn = [
                [manifest.views.draw(uid, n, 40, 50).to_row() for n in range(manifest.image_views)]
                for uid in good.tolist()
            ]
            rows = dataclasses.replace(rows, view=np.array(drawn))
        if manifest.captions:
            rows = dataclasses.replace(rows, captions=captions, text=unit(rng, sum(map(len, captions)), DIM))
        shards.append(rows)
    return shards


def write(folder: Path, manifest: Manifest = FULL, shards: list[ShardRows] | None = None) -> Manifest:
    folder.mkdir(exist_ok=True)
    shards = content(manifest) if shards is None else shards
    infos = [write_shard(folder, number, rows, dtype=manifest.dtype) for number, rows in enumerate(shards)]
    return finish_store(folder, manifest, infos)


def hashes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def rewrite(folder: Path, shard: int, change: Callable[[dict[str, np.ndarray]], object], *, seal: bool = True) -> Path:
    """Changes the tensors of a shard as its writer would refuse to; `seal` makes the manifest agree with the file."""
    path = folder / shard_name(shard)
    tensors = {name: array.copy() for name, array in map_tensors(path).items()}
    change(tensors)
    info = write_tensors(path, tensors)
    if seal:
        manifest = read_manifest(folder)
        shards = [info if number == shard else entry for number, entry in enumerate(manifest.shards)]
        (folder / MANIFEST).write_text(dataclasses.replace(manifest, shards=tuple(shards)).to_json())
    return path


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    fields = json.loads((folder / MANIFEST).read_text())
    change(fields)
    (folder / MANIFEST).write_text(json.dumps(fields))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "store")
    return tmp_path / "store"


def refused(folder: Path, *, verify: bool = True) -> str:
    with pytest.raises(ValueError, match=re.escape(str(folder))) as caught:
        TeacherStore(folder, verify=verify)
    return str(caught.value)


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


def test_files_are_safetensors_as_its_own_library_reads_them(folder):
    with safe_open(folder / shard_name(1), framework="np") as file:
        ours = map_tensors(folder / shard_name(1))
        assert set(file.keys()) == set(ours)
        for name, tensor in ours.items():
            np.testing.assert_array_equal(file.get_tensor(name), tensor)
            assert tensor.__array_interface__["data"][0] % tensor.itemsize == 0  # aligned, so read without a copy


def test_tensors_of_odd_sizes_are_aligned(tmp_path):
    uid = np.array([3], np.uint64)
    rows = ShardRows(uid=uid, image=unit(np.random.default_rng(0), 1, 1, 3), captions=[()], text=np.zeros((0, 3)))
    write_shard(tmp_path, 0, rows)
    for tensor in map_tensors(tmp_path / shard_name(0)).values():
        assert tensor.__array_interface__["data"][0] % tensor.itemsize == 0


def test_a_header_whose_tensors_overlap(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": np.arange(2, dtype=np.uint64), "b": np.arange(2, dtype=np.uint64)})
    path.write_bytes(path.read_bytes().replace(b"[0,16]", b"[8,24]").replace(b"[16,32]", b"[16,32]"))
    with pytest.raises(ValueError, match=r"its header is damaged \(a of shape \[2\] at bytes 8 to 24\)"):
        map_tensors(path)


def test_two_runs_write_the_same_bytes(tmp_path, folder):
    write(tmp_path / "again")
    assert hashes(tmp_path / "again") == hashes(folder)
    assert set(hashes(folder)) == {*map(shard_name, range(SHARDS)), "index.safetensors", "manifest.json"}


def test_a_run_that_goes_on_finds_its_earlier_shards(tmp_path):
    infos = [write_shard(tmp_path, number, rows) for number, rows in enumerate(content())]
    paths = [tmp_path / shard_name(number) for number in range(SHARDS)]
    assert [shard_info(path) for path in paths] == infos
    flipped = bytearray(paths[1].read_bytes())
    flipped[-1] ^= 1
    paths[1].write_bytes(flipped)
    with pytest.raises(
        ValueError, match=rf"shard-00001.* is not as it was written: its checksum was {infos[1].blake2b}"
    ):
        shard_info(paths[1])
    paths[2].with_suffix(teacher_shards.CHECKSUM).unlink()
    with pytest.raises(ValueError, match=r"shard-00002.* its checksum was not kept"):
        shard_info(paths[2])
    assert shard_info(paths[2], infos[2].blake2b) == infos[2]


@pytest.mark.parametrize("moment", ["while it is written", "before it has its name"])
def test_a_shard_is_whole_or_not_there(tmp_path, monkeypatch, moment):
    first, second, _ = content()
    info = write_shard(tmp_path, 0, first)
    before = hashes(tmp_path)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(durable.os, "fsync" if moment == "while it is written" else "replace", killed)
    for number in (0, 1):
        with pytest.raises(KeyboardInterrupt):
            write_shard(tmp_path, number, second)
    monkeypatch.undo()
    assert hashes(tmp_path) == before
    assert shard_info(tmp_path / info.file) == info


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


def test_distinct_samples_keep_the_sources_order():
    uids, indices = distinct_samples(Pets(np.array([9, 4, 9, 7, 4, 1], np.uint64)))
    assert uids.tolist() == [9, 4, 7, 1]
    assert indices.tolist() == [0, 1, 3, 5]
    assert uids.dtype == np.uint64


def test_a_folder_that_is_no_store(tmp_path):
    assert "is no teacher store: it has no manifest.json; clip-jax embed --store" in refused(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder"):
        TeacherStore(tmp_path / "nothing")


@pytest.mark.parametrize("verify", [True, False])
def test_missing_cut_and_strange_files(folder, verify):
    path = folder / shard_name(1)
    data = path.read_bytes()
    path.unlink()
    assert "1 of 3 shards are missing, e.g. shard-00001.safetensors" in refused(folder, verify=verify)
    path.write_bytes(data[:-100])
    said = f"{path} has {len(data) - 100:,} bytes, its manifest says {len(data):,}"
    assert said in refused(folder, verify=verify)
    path.write_bytes(data)
    (folder / shard_name(7)).write_bytes(data)
    assert "shard-00007.safetensors is not in its manifest" in refused(folder, verify=verify)
    (folder / shard_name(7)).unlink()
    TeacherStore(folder, verify=verify)
    (folder / "index.safetensors").unlink()
    assert "index.safetensors is missing" in refused(folder, verify=verify)


@pytest.mark.parametrize("file", [shard_name(0), shard_name(2), "index.safetensors"])
@pytest.mark.parametrize("place", [0.3, 0.7, 0.999])
def test_a_flipped_byte(folder, file, place):
    data = bytearray((folder / file).read_bytes())
    data[int(len(data) * place)] ^= 4
    (folder / file).write_bytes(data)
    assert f"{folder / file} is damaged: its checksum is" in refused(folder)


@pytest.mark.parametrize("place", range(0, 200, 7))
def test_a_damaged_header_is_found_without_reading_the_rest(folder, place):
    path = folder / shard_name(0)
    data = bytearray(path.read_bytes())
    data[place] ^= 0x41
    path.write_bytes(data)
    if place < 8 or data[place] not in b"0123456789":  # a digit may make another header that fits
        assert str(path) in refused(folder, verify=False)
    assert "is damaged" in refused(folder)
    path.write_bytes(b"\xff" * len(data))
    assert "no safetensors file, or a damaged one" in refused(folder, verify=False)


def test_shards_of_another_store(folder):
    path = rewrite(folder, 1, lambda tensors: tensors.update(image=tensors["image"][:, :1]))
    wanted = f"{path}: image is bfloat16[9, 1, 24], by its manifest bfloat16[9, 2, 24]; the files are of two stores"
    assert wanted in refused(folder, verify=False)
    rewrite(folder, 1, lambda tensors: tensors.pop("view"))
    assert f"{path} lacks the tensor 'view'" in refused(folder, verify=False)
    rewrite(folder, 1, lambda tensors: tensors.update(more=tensors["uid"]))
    assert f"{path} holds the tensor 'more'" in refused(folder, verify=False)


@pytest.mark.parametrize("tensor", ["image", "text"])
@pytest.mark.parametrize(
    ("factor", "message"),
    [(np.nan, "is not finite"), (0.0, "has norm 0 "), (1.02, "has norm 1.0"), (0.98, "has norm 0.9")],
)
def test_rows_that_are_no_unit_vectors(folder, tensor, factor, message):
    def scale(tensors):
        tensors[tensor][2] = (tensors[tensor][2].astype(np.float32) * factor).astype(ml_dtypes.bfloat16)

    path = rewrite(folder, 1, scale)
    found = refused(folder)
    assert f"{path}: {tensor} row 2{', view 0' if tensor == 'image' else ''} {message}" in found
    assert "stored embeddings are finite and of norm 1 to within 0.0039" in found
    TeacherStore(folder, verify=False)


def test_a_sample_in_two_shards(folder):
    first = content()[0].uid[4]

    def repeat(tensors):
        tensors["uid"][0] = first

    rewrite(folder, 2, repeat)
    both = "in shard-00000.safetensors and shard-00002.safetensors; a store holds each sample once"
    assert f"uid {first} comes twice, {both}" in refused(folder)
    with pytest.raises(ValueError, match=f"uid {first} comes twice"):
        finish_store(folder, FULL, read_manifest(folder).shards)

    def repeat_within(tensors):
        tensors["uid"][0] = tensors["bad"][0]

    path = rewrite(folder, 2, repeat_within)
    assert f"{path}: uid {content()[2].bad[0]} comes twice" in refused(folder)


def test_an_index_of_other_shards(folder):
    def swap(tensors):
        tensors["uid"][[0, 1]] = tensors["uid"][[1, 0]]

    rewrite(folder, 1, swap)
    assert "index.safetensors: its row is not that of the shards" in refused(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.ones((9, 1, DIM), np.float32)}, "image row 0 has norm 4.89"),
        ({"image": np.full((9, 1, DIM), np.nan)}, "image row 0 is not finite"),
        ({"image": unit(np.random.default_rng(0), 8, 1, DIM)}, r"image of shape \(8, 1, 24\) for 9 uids"),
        ({"image": unit(np.random.default_rng(0), 9, DIM)}, r"give \[9, views, embed_dim\]"),
        ({"uid": np.array([1, 2, 3, 4, 5, 6, 7, 8, 1], np.uint64)}, "uid 1 comes twice"),
        ({"bad": np.array([5, 5], np.uint64)}, "uid 5 comes twice"),
        ({"captions": [["a"]] * 9}, "captions and text belong together"),
        ({"captions": [["a"]] * 9, "text": unit(np.random.default_rng(0), 8, DIM)}, r"give \[9, 24\]"),
        ({"captions": [["a"]] * 8, "text": unit(np.random.default_rng(0), 8, DIM)}, "captions of 8 rows for 9 uids"),
        ({"view": np.zeros((9, 2, 15))}, r"view of shape \(9, 2, 15\); give \[9, 1, 15\]"),
        ({"view": np.full((9, 1, 15), np.inf)}, "stored view is not finite"),
    ],
)
def test_a_shard_that_is_wrong_is_not_written(tmp_path, change, message):
    rows = dataclasses.replace(content(PLAIN)[0], **change)
    with pytest.raises(ValueError, match=f"shard-00003.safetensors: .*{message}"):
        write_shard(tmp_path, 3, rows)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="dtype 'float16': give one of bfloat16, float32"):
        write_shard(tmp_path, 3, rows, dtype="float16")


def test_shards_are_finished_in_order(tmp_path):
    infos = [write_shard(tmp_path, number, rows) for number, rows in enumerate(content())]
    with pytest.raises(ValueError, match=r"shard-00002.safetensors stands where shard-00001.safetensors belongs"):
        finish_store(tmp_path, FULL, [infos[0], infos[2]])


def test_rounding_to_bf16_is_within_the_tolerance(tmp_path):
    rng = np.random.default_rng(0)
    for number, dim in enumerate((1, 2, 3, 16, 512)):
        uid = np.arange(1000, dtype=np.uint64)
        write_shard(tmp_path, number, ShardRows(uid=uid, image=unit(rng, 1000, 1, dim)))
    ones = np.full((1, 1, 3), 1 / np.sqrt(3), np.float32)  # all numbers round the same way
    write_shard(tmp_path, 9, ShardRows(uid=np.array([1], np.uint64), image=ones))


def test_the_manifest_is_the_same_in_json():
    finished = dataclasses.replace(
        FULL, shards=(FileInfo(file=shard_name(0), rows=1, captions=2, bad=3, bytes=4, blake2b="f"),)
    )
    for manifest in (PLAIN, FULL, finished):
        assert Manifest.from_json(manifest.to_json(), "m") == manifest
        assert Manifest.from_json(manifest.to_json(), "m").to_json() == manifest.to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields.update(version=9), "format version 9; this version of clip_jax reads 1"),
        (lambda fields: fields.update(normalisation="none"), "normalisation 'none'"),
        (lambda fields: fields.update(dtype="float16"), "dtype 'float16'; .* reads 'bfloat16', 'float32'"),
        (lambda fields: fields.pop("tokenizer"), "manifest.json needs 'tokenizer'$"),
        (lambda fields: fields.pop("dtype"), "manifest.json needs 'dtype'$"),
        (lambda fields: fields.update(colour="red"), "manifest.json has no 'colour'; there are batch_size, captions"),
        (lambda fields: fields["teacher"].update(embed_dim="24"), "teacher.embed_dim is '24', a str; expected int"),
        (lambda fields: fields["teacher"].update(embed_dim=True), "teacher.embed_dim is True, a bool; expected int"),
        (lambda fields: fields["teacher"].update(embed_dim=0), "embed_dim 0"),
        (lambda fields: fields["teacher"].update(logit_scale=float("nan")), "logit_scale nan"),
        (lambda fields: fields["shards"][1].pop("rows"), r"shards\[1\] needs 'rows'"),
        (lambda fields: fields.update(shards={}), r"shards is \{\}; expected a tuple"),
        (lambda fields: fields.update(rows_per_shard=0), "rows_per_shard 0"),
        (lambda fields: fields["views"].update(count=0), "count 0"),
        (
            lambda fields: fields["views"]["augmentation"].update(scale=[0, 1]),
            "manifest.json: augmentation scale .* 0 < low",
        ),
        (
            lambda fields: fields["views"]["augmentation"].update(scale=[1]),
            r"views.augmentation.scale is \[1\]; expected 2 values",
        ),
        (lambda fields: fields.update(index=None), "its manifest names no index"),
        (lambda fields: fields.update(index=7), "index is 7; expected the fields of FileInfo"),
        (lambda fields: fields["index"].update(file="../a"), "../a stands where index.safetensors belongs"),
        (lambda fields: fields["shards"][0].update(file="../a"), "../a stands where shard-00000.safetensors belongs"),
    ],
)
def test_a_manifest_that_is_wrong(folder, change, message):
    edit(folder, change)
    assert re.search(message, refused(folder, verify=False), re.DOTALL)


def test_a_manifest_of_before_batch_sizes_were_written_down(folder):
    found = read_manifest(folder)
    edit(folder, lambda fields: fields.pop("batch_size"))
    assert read_manifest(folder) == found


def test_a_manifest_that_is_no_json(folder):
    whole = (folder / MANIFEST).read_bytes()
    for damaged, message in (
        (whole[:-20], " is not JSON"),
        (whole.replace(b"pets", b"p\xffts"), " is not JSON"),
        (b"[]", ": format version None"),
    ):
        (folder / MANIFEST).write_bytes(damaged)
        assert f"{folder / MANIFEST}{message}" in refused(folder)


def test_what_differs_between_two_stores(folder):
    assert differences(FULL, read_manifest(folder)) == []
    teacher = dataclasses.replace(FULL.teacher, weights_hash="ffff")
    assert differences(FULL, dataclasses.replace(FULL, teacher=teacher)) == ['teacher.weights_hash: "ab12" and "ffff"']
    preprocessing = {"size": 64, "mean": [0.5, 0.4, 0.3], "mode": "squash"}
    assert differences(FULL, dataclasses.replace(FULL, preprocessing=preprocessing)) == [
        "preprocessing.size: 32 and 64",
        'preprocessing.mode: none and "squash"',
    ]
    augmentation = dataclasses.replace(VIEWS.augmentation, scale=(0.5, 1.0))
    other = dataclasses.replace(
        FULL, views=dataclasses.replace(VIEWS, seed=6, augmentation=augmentation), tokenizer="x"
    )
    said = ["views.seed: 5 and 6", "views.augmentation.scale: [0.3, 1.0] and [0.5, 1.0]"]
    assert view_differences(FULL, other) == said
    assert view_differences(FULL, dataclasses.replace(FULL, teacher=teacher)) == []
    assert view_differences(PLAIN, PLAIN) == []
    (only,) = view_differences(PLAIN, FULL)
    assert only.startswith('views: none and {"count": 2')


def test_a_large_store_tells_how_far_checking_is(folder, monkeypatch, caplog):
    monkeypatch.setattr(teacher_store, "_LOG_SECONDS", -1)
    with caplog.at_level(logging.INFO):
        TeacherStore(folder)
    assert "3 of 3 shards are checked" in caplog.text


def test_caption_keys_are_blake2b_of_the_text():
    assert caption_key("a dog") == int.from_bytes(
        bytes.fromhex("fe02e6665a225ac7"), "little"
    )  # printf "a dog" | b2sum -l 64
    assert caption_key("a dog ") != caption_key("a dog")
    assert caption_key("\ud800") >= 0
