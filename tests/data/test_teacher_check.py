"""A store whose files are not what its manifest says: each an error that says what and where."""

import logging

import ml_dtypes
import numpy as np
import pytest

from clip_jax.data import teacher_store
from clip_jax.data.teacher_index import finish_store
from clip_jax.data.teacher_manifest import MANIFEST, read_manifest
from clip_jax.data.teacher_shards import shard_name
from clip_jax.data.teacher_store import TeacherStore
from tests.handmade_store import FULL, content, refused, rewrite, write


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "store")
    return tmp_path / "store"


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


def test_a_flipped_byte_of_the_manifest(folder):
    path = folder / MANIFEST
    data = path.read_bytes()
    for place in range(0, len(data), 2):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        assert str(path) in refused(folder), data[place - 20 : place + 20]
    path.write_bytes(data)
    TeacherStore(folder)


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


def test_a_large_store_tells_how_far_checking_is(folder, monkeypatch, caplog):
    monkeypatch.setattr(teacher_store, "_LOG_SECONDS", -1)
    with caplog.at_level(logging.INFO):
        TeacherStore(folder)
    assert "3 of 3 shards are checked" in caplog.text
