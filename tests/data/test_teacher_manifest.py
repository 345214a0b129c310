"""A store's manifest: the same in JSON, whatever is wrong with it named, and in what two of them differ."""

import dataclasses
import json
import re

import pytest

from clip_jax.data.teacher_manifest import (
    MANIFEST,
    SEAL,
    UNFINISHED,
    FileInfo,
    Manifest,
    differences,
    read_manifest,
    read_unfinished,
    view_differences,
    write_unfinished,
)
from clip_jax.data.teacher_shards import shard_name
from tests.handmade_store import FULL, PLAIN, VIEWS, edit, refused, write


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "store")
    return tmp_path / "store"


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


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields["teacher"].update(logit_scale=4.7),
        lambda fields: fields["teacher"].update(weights_hash="ab13"),
        lambda fields: fields["teacher"]["model"].update(width=[1, 3]),
        lambda fields: fields["views"].update(seed=6),
        lambda fields: fields["preprocessing"].update(mean=[0.5, 0.4, 0.2]),
        lambda fields: fields.update(tokenizer="cd35"),
        lambda fields: fields.pop("batch_size"),
    ],
)
def test_a_manifest_that_was_edited(folder, change, verify):
    edit(folder, lambda fields: None, seal=False)
    read_manifest(folder)  # laid out otherwise, it is the same
    edit(folder, change, seal=False)
    said = refused(folder, verify=verify)
    assert f"{folder / MANIFEST} was changed or damaged: the checksum of its fields is" in said
    assert "copy it again, or run clip-jax embed into another folder" in said


def test_settings_of_an_unfinished_store_are_checked_too(tmp_path):
    write_unfinished(tmp_path, FULL)
    path = tmp_path / UNFINISHED
    path.write_text(path.read_text().replace('"seed": 5', '"seed": 6'))
    with pytest.raises(ValueError, match=r"unfinished.json was changed or damaged"):
        read_unfinished(tmp_path)


def test_a_manifest_of_before_there_were_checksums(folder):
    found, fields = read_manifest(folder), json.loads((folder / MANIFEST).read_text())
    assert [*fields][-1] == SEAL
    del fields[SEAL]
    (folder / MANIFEST).write_text(json.dumps(fields))
    assert read_manifest(folder) == found


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
