"""A shard: safetensors as its own library reads them, whole or not there, and never with rows that are wrong."""

import dataclasses

import numpy as np
import pytest
from safetensors import safe_open

from clip_jax import durable
from clip_jax.data import teacher_shards
from clip_jax.data.teacher_shards import (
    ShardRows,
    caption_key,
    map_tensors,
    shard_info,
    shard_name,
    write_shard,
    write_tensors,
)
from tests.handmade_store import DIM, PLAIN, SHARDS, content, hashes, unit, write


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "store")
    return tmp_path / "store"


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


def test_rounding_to_bf16_is_within_the_tolerance(tmp_path):
    rng = np.random.default_rng(0)
    for number, dim in enumerate((1, 2, 3, 16, 512)):
        uid = np.arange(1000, dtype=np.uint64)
        write_shard(tmp_path, number, ShardRows(uid=uid, image=unit(rng, 1000, 1, dim)))
    ones = np.full((1, 1, 3), 1 / np.sqrt(3), np.float32)  # all numbers round the same way
    write_shard(tmp_path, 9, ShardRows(uid=np.array([1], np.uint64), image=ones))


def test_caption_keys_are_blake2b_of_the_text():
    assert caption_key("a dog") == int.from_bytes(
        bytes.fromhex("fe02e6665a225ac7"), "little"
    )  # printf "a dog" | b2sum -l 64
    assert caption_key("a dog ") != caption_key("a dog")
    assert caption_key("\ud800") >= 0
