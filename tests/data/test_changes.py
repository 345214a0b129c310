"""Data that change under a run: what was opened is never read as something else, and what came between two starts is named."""

import collections
import dataclasses
import itertools
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest

from clip_jax.data.contents import contents, difference
from clip_jax.data.glyphs import Glyphs, GlyphsConfig
from clip_jax.data.images import decode
from clip_jax.data.mixture import Mixture
from clip_jax.data.pipeline import ReadConfig, Target, TrainStream
from clip_jax.data.source import BadSample, Sample
from clip_jax.data.table import Table, TableConfig
from clip_jax.data.taught import Taught
from clip_jax.data.teacher_shards import shard_name
from clip_jax.data.teacher_store import TeacherStore
from clip_jax.data.webdataset import WebDataset
from clip_jax.tokenizer import Tokenizer
from tests.data.tars import open_shards, pairs, tar, write_shards
from tests.handmade_store import FULL, content, write

COUNT = 4  # samples a shard
CHANGED = "cannot be read: the file has changed since it was opened first"


def overwrite(path: Path, data: bytes) -> None:
    """The same file with other bytes, and a later time: file systems count it in steps of milliseconds."""
    before = path.stat().st_mtime_ns
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()
    os.utime(path, ns=(before + 10**7, before + 10**7))


def exchange(path: Path, data: bytes) -> None:
    """Another file by the same name."""
    draft = path.with_name("draft")
    draft.write_bytes(data)
    os.utime(draft, ns=(path.stat().st_mtime_ns + 10**7,) * 2)
    draft.replace(path)


# What becomes of shard 1, which holds the samples 4 to 7.
OTHERS = tar(pairs(100, COUNT, keys_from=4))  # other pictures and captions under the same keys, at the same places
LONGER = tar(pairs(4, COUNT + 3))
SHORTER = tar(pairs(4, COUNT - 2))
SHIFTED = tar([("readme.md", b"new"), *pairs(4, COUNT)])
CHANGES: dict[str, Callable[[Path], object]] = {
    "overwritten": lambda path: overwrite(path, OTHERS),
    "exchanged": lambda path: exchange(path, OTHERS),
    "grown": lambda path: overwrite(path, LONGER),
    "shortened": lambda path: overwrite(path, SHORTER),
    "cut": lambda path: overwrite(path, path.read_bytes()[:-4096]),
    "shifted": lambda path: exchange(path, SHIFTED),
    "removed": lambda path: path.unlink(),
}
SAME_LAYOUT = ("overwritten", "exchanged")  # by keys and sizes the same samples


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards."""
    write_shards(tmp_path / "data", [COUNT] * 3)
    return tmp_path / "data"


def said(source: WebDataset, index: int) -> str:
    """Why a sample cannot be read; "" where it is the one it was."""
    try:
        sample = source[index]
    except BadSample as error:
        return error.reason
    shade = decode(sample.image)[0, 0].tolist() if isinstance(sample.image, bytes) else []
    assert (shade, sample.captions) == ([index, 0, 0], (f"caption {index:05d}",)), "another sample"
    return ""


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("opened", [False, True], ids=["before it is read", "while it is read"])
def test_a_shard_that_changes_under_a_run_is_itself_or_nothing(folder: Path, change: Callable, opened: bool) -> None:
    source = open_shards(folder)
    if opened:
        assert not said(source, 4)
    path = folder / "00001.tar"
    file = path.stat().st_ino
    change(path)
    reasons = [said(source, index) for index in range(3 * COUNT)]
    assert not any(reasons[:COUNT] + reasons[2 * COUNT :])
    if opened and not (path.exists() and path.stat().st_ino == file):
        assert not any(reasons)  # the file that is open still has its content
    else:
        assert all(reason.startswith("cannot be read: ") for reason in reasons[COUNT : 2 * COUNT])
    copied = pickle.loads(pickle.dumps(source))  # a worker process that starts now
    assert all(said(copied, index) for index in range(COUNT, 2 * COUNT))


def test_what_is_said_of_a_changed_shard(folder: Path) -> None:
    source = open_shards(folder)
    overwrite(folder / "00001.tar", OTHERS)
    assert said(source, 5) == CHANGED


@pytest.mark.parametrize(
    "other", [tar(pairs(20, COUNT)), SHORTER[:4096], SHIFTED, b"", tar([("a.png", b"5"), *pairs(4, COUNT)])]
)
def test_a_remote_shard_that_changes_under_a_run_is_itself_or_nothing(tmp_path: Path, other: bytes) -> None:
    system = fsspec.filesystem("memory")
    for shard in range(3):
        system.pipe_file(f"/changes/{shard}.tar", tar(pairs(shard * COUNT, COUNT)))
    try:
        source = open_shards(tmp_path / "data", "memory://changes/*.tar")
        assert not any(said(source, index) for index in range(3 * COUNT))
        system.pipe_file("/changes/1.tar", other)
        reasons = [said(source, index) for index in range(3 * COUNT)]
        assert not any(reasons[:COUNT] + reasons[2 * COUNT :])
        assert reasons[2 * COUNT - 1].startswith("cannot be read: ")
        assert tar(pairs(4, COUNT)).startswith(other) or all(reasons[COUNT : 2 * COUNT])
    finally:
        system.rm("/changes", recursive=True)


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_that_headers_do_not_hold_whole_are_still_read_from_remote(tmp_path: Path, tar_format: int) -> None:
    system = fsspec.filesystem("memory")
    members = [(f"{key}.{kind}", b"x") for key in ("x" * 120, "größe", "./b") for kind in ("png", "txt")]
    system.pipe_file("/changes/0.tar", tar(members, tar_format))
    try:
        source = open_shards(tmp_path / "data", "memory://changes/*.tar")
        assert [source[index].captions for index in range(len(source))] == [("x",)] * 3
    finally:
        system.rm("/changes", recursive=True)


def test_samples_of_a_changed_shard_are_replaced_and_counted(folder: Path) -> None:
    source = open_shards(folder)
    target = Target(image_size=8, tokenizer=Tokenizer(8))
    stream = TrainStream(source, target, ReadConfig(workers=0, prefetch=2), seed=0, batch_size=4)
    told = [next(stream)]
    overwrite(folder / "00001.tar", OTHERS)
    told += [next(stream) for _ in range(30)]
    stream.close()
    bad = [entry for _, entries in told for entry in entries]
    assert {entry.shard for entry in bad} == {f"{folder}/00001.tar"}
    assert {entry.reason for entry in bad} == {CHANGED}
    assert {entry.uid for entry in bad} == {source.uid(index) for index in range(COUNT, 2 * COUNT)}
    assert sum(int(batch["replaced"].sum()) for batch, _ in told) == len(bad)


@pytest.mark.parametrize("change", [CHANGES[name] for name in CHANGES if name not in SAME_LAYOUT])
def test_a_shard_that_changed_between_two_starts_is_named(folder: Path, change: Callable) -> None:
    before = contents(open_shards(folder))
    assert difference(before, contents(open_shards(folder))) == ""
    change(folder / "00001.tar")
    found = difference(before, contents(open_shards(folder)))
    became = "changed" if (folder / "00001.tar").exists() else "missing"
    assert found == f"of 3 parts: 1 {became} (test/00001.tar)"


def test_copies_of_the_data_are_the_same_and_additions_are_not(folder: Path, tmp_path: Path) -> None:
    before = contents(open_shards(folder))
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert contents(open_shards(tmp_path / "elsewhere")) == before
    (folder / "00003.tar").write_bytes(tar(pairs(12, 1)))
    (folder / "00004.tar").write_bytes(tar(pairs(13, 1)))
    assert difference(before, contents(open_shards(folder))) == "of 3 parts: 2 new (test/00003.tar, test/00004.tar)"
    names = [f"{folder}/0000{number}.tar" for number in (1, 0, 2)]
    turned = open_shards(folder, f"{folder}/{{{','.join(name[-9:-4] for name in names)}}}.tar")
    assert difference(before, contents(turned)) == "3 parts are in another order"


def test_other_sources_are_told_apart(folder: Path, tmp_path: Path) -> None:
    tars, small = open_shards(folder), Glyphs(GlyphsConfig(split="validation", limit=40, size=16))
    large = Glyphs(GlyphsConfig(split="validation", limit=41, size=16))
    assert difference(contents(small), contents(large)) == "of 1 parts: 1 changed (glyphs)"
    one, other = Mixture([(1.0, tars), (1.0, small)]), Mixture([(1.0, tars), (2.0, small)])
    assert contents(one) == contents(Mixture([(1.0, tars), (1.0, small)]))
    assert difference(contents(one), contents(other)) == "of 5 parts: 1 changed (mixture)"
    (tmp_path / "a.png").write_bytes(b"")
    table = tmp_path / "pets.csv"
    table.write_text("filepath,title\na.png,one\na.png,two\n")
    before = contents(Table(TableConfig(path=str(table), name="pets")))
    table.write_text("filepath,title\na.png,one\na.png,six\n")
    after = contents(Table(TableConfig(path=str(table), name="pets")))
    assert difference(before, after) == "of 1 parts: 1 changed (pets.csv)"


# What becomes of a store's shard 1, or of its index.
def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    overwrite(path, bytes(data))


STORE_CHANGES: dict[str, Callable[[Path], object]] = {
    "a flipped byte": flip,
    "another's": lambda path: exchange(path, path.with_name(shard_name(0)).read_bytes()),
    "cut": lambda path: overwrite(path, path.read_bytes()[:200]),
    "removed": lambda path: path.unlink(),
}


@pytest.mark.parametrize("file", [shard_name(1), "index.safetensors"])
@pytest.mark.parametrize("change", STORE_CHANGES.values(), ids=STORE_CHANGES.keys())
@pytest.mark.parametrize("opened", [False, True], ids=["before it is read", "while it is read"])
def test_a_store_that_changes_under_a_run_ends_it(tmp_path: Path, file: str, change: Callable, opened: bool) -> None:
    write(tmp_path / "store")
    shard = content()[1]
    captions = [of_row[0] for of_row in shard.captions or () if of_row]
    told = [uid for uid, of_row in zip(shard.uid, shard.captions or (), strict=True) if of_row]
    store = TeacherStore(tmp_path / "store")
    rows = store.rows(shard.uid)
    if opened:
        store.image(rows, 1)
    copied = pickle.loads(pickle.dumps(store))
    change(tmp_path / "store" / file)
    reads: list[Callable[[TeacherStore], object]] = [
        lambda store: store.image(store.rows(shard.uid), 1),
        lambda store: store.text(store.rows(np.array(told)), captions),
        lambda store: store.view(int(store.rows(shard.uid)[0]), 0),
    ]
    what = "is gone" if change is STORE_CHANGES["removed"] else "has changed"
    for one in (store, copied):
        for read in reads:
            with pytest.raises(RuntimeError, match=rf"{file} {what} since it was checked; put it back as it was, and"):
                read(one)
    with pytest.raises(ValueError, match=str(tmp_path)):  # and the next start says what is wrong with it
        TeacherStore(tmp_path / "store")


class Few:
    """The samples of a handmade store's shards."""

    name, classes = "pets", ()

    def __init__(self) -> None:
        self.uids = [uid for shard in content() for uid in shard.uid.tolist()]

    def __len__(self) -> int:
        return len(self.uids)

    def __getitem__(self, index: int) -> Sample:
        return Sample(uid=self.uids[index], image=np.zeros((8, 8, 3), np.uint8), captions=("a pet",))

    def shard(self, index: int) -> str:
        return "pets.csv"

    def uid(self, index: int) -> int:
        return self.uids[index]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_stream_says_which_file_of_a_store_changed(tmp_path: Path, workers: int) -> None:
    write(tmp_path / "store", dataclasses.replace(FULL, captions=False))
    taught = Taught(stores={"clip": TeacherStore(tmp_path / "store")})
    config = ReadConfig(workers=workers, prefetch=2)
    stream = TrainStream(
        Few(), Target(image_size=8, tokenizer=Tokenizer(8)), config, seed=0, batch_size=4, taught=taught
    )
    try:
        next(stream)
        flip(tmp_path / "store" / shard_name(1))
        with pytest.raises(RuntimeError, match=r"shard-00001.safetensors has changed since it was checked"):
            collections.deque(itertools.islice(stream, 40), maxlen=0)
    finally:
        stream.close()
