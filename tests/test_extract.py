"""A teacher's store: what is in it, and that it is the same however it came about."""

import contextlib
import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from clip_jax.data.images import Augmentation, draw_view
from clip_jax.data.source import BadSample, Sample, sample_uid
from clip_jax.data.sources import GlyphsConfig
from clip_jax.data.teacher_items import ShardedSamples
from clip_jax.data.teacher_manifest import MANIFEST, UNFINISHED, Manifest, read_manifest, write_unfinished
from clip_jax.data.teacher_shards import CHECKSUM, ShardRows, map_tensors, shard_name
from clip_jax.data.teacher_store import TeacherStore
from clip_jax.data.views import apply_view
from clip_jax.extract import extract
from clip_jax.model import Model
from clip_jax.models.clip import init_params
from clip_jax.run_folder import Lock
from clip_jax.store_plan import EmbedConfig, plan_store, tokenizer_hash
from clip_jax.store_writing import StoreWriting
from tests.small_store import embed
from tests.small_teacher import TEACHER

AUGMENTATION = Augmentation(scale=(0.3, 1.0), flip=0.5, color_jitter=(0.4, 0.4, 0.4, 0.1), color_jitter_prob=0.8)
CONFIG = EmbedConfig(views=3, rows_per_shard=8, batch_size=2, dtype="float32")
PLAIN = dataclasses.replace(CONFIG, views=0)


class Pictures:
    """A source of `count` pictures with one to three captions, in files of four. `broken`: of which this many come first
    in every file; `version`: part of the pictures' names."""

    name, classes = "pictures", ()

    def __init__(self, count: int = 21, broken: int = 0, version: str = ""):
        self.count, self.broken, self.version = count, broken, version

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if index % 4 < self.broken:
            raise BadSample(f"{index} is broken")
        rng = np.random.default_rng(index)
        return Sample(
            uid=self.uid(index),
            image=rng.integers(0, 256, (20, 30, 3)).astype(np.uint8),
            captions=tuple(f"picture {index}, {number}" for number in range(1 + index % 3)),
            synthetic=(f"generated {index}",) if index % 2 else (),
        )

    def shard(self, index: int) -> str:
        return f"file-{index // 4}"

    def uid(self, index: int) -> int:
        return sample_uid(self.name, f"{self.version}{index}")


class Repeating(Pictures):
    """Eleven pictures again and again."""

    def __getitem__(self, index: int) -> Sample:
        return super().__getitem__(index % 11)

    def uid(self, index: int) -> int:
        return super().uid(index % 11)


@functools.cache
def weights():
    return jax.device_get(jax.jit(lambda key: init_params(TEACHER, key))(jax.random.key(0)))


def teacher(*, devices: int = 8, dtype="float32") -> Model:
    return Model(TEACHER, weights(), dtype=dtype, devices=jax.devices()[:devices])


@pytest.fixture(scope="module")
def model() -> Model:
    return teacher()


def write(model: Model, source: Pictures, folder: Path, config: EmbedConfig = CONFIG) -> Manifest:
    return embed(folder, model, source, GlyphsConfig(), AUGMENTATION, config)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores") / "whole"
    write(model, Pictures(), folder)
    return folder


def test_a_stored_view_applied_again_and_encoded_gives_the_stored_row(whole: Path, model: Model) -> None:
    store, source = TeacherStore(whole), Pictures()
    assert len(store) == 21
    assert store.manifest.image_views == 3
    for index in (0, 7, 8, 20):
        sample = source[index]
        row = int(store.rows(np.array([sample.uid], np.uint64))[0])
        for number in (0, 1, 2):
            view = store.view(row, number)
            pixels = apply_view(sample.image, 16, view, AUGMENTATION.interpolation)
            expected = model.encode_image(pixels[None])
            np.testing.assert_allclose(store.image(np.array([row]), number), expected, atol=1e-6)
            assert view == draw_view(20, 30, np.random.default_rng((0, sample.uid, number)), AUGMENTATION)
        texts = (*sample.captions, *sample.synthetic)
        found = store.text(np.full(len(texts), row), texts)
        np.testing.assert_allclose(found, model.encode_text(texts), atol=1e-6)


def test_without_views_rows_are_those_of_the_model_and_bf16_is_near_them(model: Model, tmp_path: Path) -> None:
    source = Pictures(9)
    samples = [source[index] for index in range(9)]
    expected = model.encode_image([sample.image for sample in samples])
    for dtype, tolerance in (("float32", 1e-6), ("bfloat16", 0.03)):
        folder = tmp_path / dtype
        manifest = write(teacher(dtype=dtype), source, folder, dataclasses.replace(PLAIN, dtype=dtype))
        store = TeacherStore(folder)
        rows = store.rows(np.array([sample.uid for sample in samples], np.uint64))
        np.testing.assert_allclose(store.image(rows), expected, atol=tolerance)
        text = store.text(rows, [sample.captions[0] for sample in samples])
        np.testing.assert_allclose(text, model.encode_text([sample.captions[0] for sample in samples]), atol=tolerance)
        assert manifest.dtype == dtype
        assert map_tensors(folder / shard_name(0))["image"].dtype.name == dtype


def test_the_manifest_says_what_was_done(whole: Path, model: Model) -> None:
    manifest = json.loads((whole / MANIFEST).read_text())
    assert manifest["batch_size"] == 2
    assert [shard["rows"] for shard in manifest["shards"]] == [8, 8, 5]
    assert manifest["teacher"]["logit_scale"] == pytest.approx(np.log(1 / 0.07), rel=1e-6)
    assert manifest["teacher"]["embed_dim"] == 16
    assert manifest["preprocessing"]["image_size"] == 16
    assert manifest["source"]["samples"] == 21
    assert not (whole / UNFINISHED).exists()
    assert write(model, Pictures(), whole) == TeacherStore(whole).manifest  # and nothing is written again


def test_one_device_writes_the_bytes_of_eight(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: first)
    write(teacher(devices=1), Pictures(), tmp_path / "store")
    assert content(tmp_path / "store") == content(whole)


def test_stopped_between_shards_the_rest_is_made_and_nothing_twice(
    whole: Path, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, written, really = tmp_path / "store", [], StoreWriting.write

    def write_until(last: int):
        def one(store: StoreWriting, shard: int, rows: ShardRows) -> None:
            if shard == last:
                raise KeyboardInterrupt
            written.append(shard)
            really(store, shard, rows)

        monkeypatch.setattr(StoreWriting, "write", one)

    for last in (1, 2):
        write_until(last)
        with pytest.raises(KeyboardInterrupt):
            write(model, Pictures(), folder)
        assert (folder / UNFINISHED).is_file()
        with pytest.raises(ValueError, match="embedding was not finished"):
            TeacherStore(folder)
    (folder / f".{shard_name(2)}.draft").write_bytes(b"as kill -9 leaves it")
    write_until(9)
    write(model, Pictures(), folder)
    assert written == [0, 1, 2]
    assert content(folder) == content(whole)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _spoil(path: Path) -> None:
    """Puts a NaN into the last embedding."""
    path.write_bytes(path.read_bytes()[:-4] + np.float32(np.nan).tobytes())


def _rename(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"uid"', b'"uix"'))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped byte": _flip,
    "cut": lambda path: os.truncate(path, path.stat().st_size - 1),
    "NaN": _spoil,
    "no uids": _rename,
    "empty": lambda path: path.write_bytes(b""),
    "no checksum": lambda path: path.with_suffix(CHECKSUM).unlink(),
    "spoilt checksum": lambda path: path.with_suffix(CHECKSUM).write_bytes(b"\xff"),
    "whole": lambda path: None,
}


@pytest.fixture(scope="module")
def begun(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That store as a run leaves it that is killed before the third shard."""
    folder, plan = tmp_path_factory.mktemp("stores") / "begun", read_manifest(whole)
    folder.mkdir()
    write_unfinished(folder, dataclasses.replace(plan, shards=(), index=None))
    for shard in plan.shards[:2]:
        shutil.copy(whole / shard.file, folder)
        (folder / shard.file).with_suffix(CHECKSUM).write_text(shard.blake2b)
    return folder


@pytest.mark.parametrize(("first", "second"), [*zip([*DAMAGE][::2], [*DAMAGE][1::2], strict=True)])
def test_shards_damaged_before_the_store_was_finished_are_made_again(
    first: str,
    second: str,
    begun: Path,
    whole: Path,
    model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, written, really = tmp_path / "store", [], StoreWriting.write
    shutil.copytree(begun, folder)
    names = [shard_name(0), shard_name(1)]
    for name, damage in zip(names, (first, second), strict=True):
        DAMAGE[damage](folder / name)

    def count(store: StoreWriting, shard: int, rows: ShardRows) -> None:
        written.append(shard)
        really(store, shard, rows)

    monkeypatch.setattr(StoreWriting, "write", count)
    write(model, Pictures(), folder)
    assert content(folder) == content(whole)
    bad = [number for number, damage in enumerate((first, second)) if damage != "whole"]
    assert written == [*bad, 2]
    told = [record.message for record in caplog.records if record.message.endswith("it is made again")]
    assert [names[number] in line for number, line in zip(bad, told, strict=True)] == [True] * len(bad)


def test_damage_after_the_last_look_is_not_given_a_checksum(begun: Path, model: Model, tmp_path: Path) -> None:
    """As of shards that another process wrote."""
    folder = tmp_path / "store"
    shutil.copytree(begun, folder)
    samples = ShardedSamples(Pictures(), CONFIG.rows_per_shard)
    plan = plan_store(model, "teacher", samples, GlyphsConfig(), AUGMENTATION, CONFIG)
    with contextlib.closing(StoreWriting(folder, samples, plan, CONFIG.max_bad_share)) as store:
        extract(model, store)
        store._infos = {}
        _flip(folder / shard_name(1))
        with pytest.raises(ValueError, match=r"shard-00001.safetensors is not as it was written"):
            store.finish()
    assert not (folder / MANIFEST).exists()


def test_what_a_killed_finish_leaves_is_removed(whole: Path, model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    shutil.copytree(whole, folder)
    (folder / UNFINISHED).write_text("{}")
    (folder / shard_name(0)).with_suffix(CHECKSUM).write_text("ab")
    write(model, Pictures(), folder)
    assert content(folder) == content(whole)


def test_a_finished_store_that_lost_a_shard_gets_it_again(whole: Path, model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    shutil.copytree(whole, folder)
    (folder / shard_name(1)).unlink()
    write(model, Pictures(), folder)
    assert content(folder) == content(whole)


def test_a_shard_that_was_never_written_is_no_finished_store(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = StoreWriting.write
    monkeypatch.setattr(
        StoreWriting, "write", lambda store, shard, rows: None if shard == 1 else really(store, shard, rows)
    )
    with pytest.raises(RuntimeError, match=r"shard-00001.safetensors is not there, though"):
        write(model, Pictures(), tmp_path / "store")
    assert not (tmp_path / "store" / MANIFEST).exists()


@pytest.mark.parametrize("finished", [True, False])
def test_other_weights_options_and_data_are_refused(finished: bool, whole: Path, model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    shutil.copytree(whole, folder)
    if not finished:
        (folder / MANIFEST).rename(folder / UNFINISHED)
        (folder / shard_name(2)).unlink()
    began = content(folder)
    others = [  # whose rows are others in the last digits, or imported
        (dataclasses.replace(CONFIG, batch_size=1), "batch_size: 2 and 1"),
        (dataclasses.replace(CONFIG, batch_size=None), "batch_size: 2 and none"),
    ]
    for changed, message in (
        (dataclasses.replace(CONFIG, views=2), "views.count: 3 and 2"),
        (dataclasses.replace(CONFIG, captions=False), "captions: true and false"),
        (dataclasses.replace(CONFIG, seed=1), "views.seed: 0 and 1"),
        (dataclasses.replace(CONFIG, rows_per_shard=7), "rows_per_shard: 8 and 7"),
        *([] if finished else others),
    ):
        with pytest.raises(ValueError, match=message):
            write(model, Pictures(), folder, changed)
    with pytest.raises(ValueError, match=r"teacher.weights_hash: .* and "):
        write(Model(TEACHER, weights() | {"logit_scale": np.float32(2.66)}), Pictures(), folder)
    with pytest.raises(ValueError, match=r"source.samples: 21 and 20"):
        write(model, Pictures(20), folder)
    if not finished:
        with pytest.raises(ValueError, match=r"shard-00000.safetensors holds other samples than 'pictures' has"):
            write(model, Pictures(version="new "), folder)
    else:
        for changed, _ in others:
            assert write(model, Pictures(), folder, changed) == read_manifest(whole)  # nothing is left to compute
    assert content(folder) == began


def test_a_folder_in_use_and_one_of_other_things_are_refused(model: Model, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds notes.txt, and is no store that was begun"):
        write(model, Pictures(), tmp_path)
    folder = tmp_path / "store"
    folder.mkdir()
    other = Lock(folder)
    with pytest.raises(ValueError, match="another run is writing to"):
        write(model, Pictures(), folder)
    other.close()


def test_a_disk_too_small_is_told_before_anything_is_computed(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    for free, fits in ((21 * 3 * 16 * 4, True), (21 * 3 * 16 * 4 - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        with contextlib.nullcontext() if fits else pytest.raises(ValueError, match="GB free; the images' embeddings"):
            write(model, Pictures(), tmp_path / f"store {fits}")
    assert write(model, Pictures(), tmp_path / "store True").rows == 21  # finished: it needs no more


def test_bad_samples_are_listed_told_of_and_counted(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Pictures(broken=1)
    manifest = write(model, source, tmp_path / "store", PLAIN)
    assert (manifest.rows, manifest.bad) == (15, 6)
    bad = map_tensors(tmp_path / "store" / shard_name(1))["bad"].tolist()
    assert bad == [source.uid(8), source.uid(12)]
    store = TeacherStore(tmp_path / "store")
    assert all(store.is_bad(source.uid(index)) for index in range(0, 21, 4))
    store.check_source(source)
    told = capsys.readouterr().err
    assert f"sample {source.uid(12)} in file-3 is left out: 12 is broken" in told


def test_too_many_bad_samples_stop_it_and_a_larger_share_goes_on(model: Model, tmp_path: Path) -> None:
    source = Pictures(64, broken=3)
    with pytest.raises(RuntimeError, match=r"12 of 16 samples cannot .*50.0%; worst: file-0 \(3\), .*file-3 \(3\)\."):
        write(model, source, tmp_path / "store", dataclasses.replace(PLAIN, max_bad_share=0.5))
    assert len(list((tmp_path / "store").glob("shard-*.safetensors"))) == 2
    manifest = write(model, source, tmp_path / "store", dataclasses.replace(PLAIN, max_bad_share=0.8))
    assert (manifest.rows, manifest.bad) == (16, 48)
    with pytest.raises(RuntimeError, match="4 of 4 samples cannot be used"):
        write(model, Pictures(4, broken=4), tmp_path / "none", PLAIN)


def test_repeated_samples_are_stored_once(model: Model, tmp_path: Path) -> None:
    write(model, Pictures(11), tmp_path / "once")
    write(model, Repeating(22), tmp_path / "twice")
    assert content(tmp_path / "twice") == content(tmp_path / "once")


def test_views_need_an_augmentation_and_a_store_samples(model: Model) -> None:
    samples = ShardedSamples(Pictures(), 8)
    with pytest.raises(ValueError, match=r"3 views: the data's config augments no images"):
        plan_store(model, "teacher", samples, GlyphsConfig(), None, CONFIG)
    assert plan_store(model, "teacher", samples, GlyphsConfig(), None, PLAIN).views is None
    with pytest.raises(ValueError, match="source 'pictures' is empty"):
        ShardedSamples(Pictures(0), 8)


@pytest.mark.parametrize(
    "wrong", [{"views": -1}, {"rows_per_shard": 0}, {"seed": -1}, {"batch_size": 0}, {"max_bad_share": 1.5}]
)
def test_settings_out_of_range_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        dataclasses.replace(CONFIG, **wrong)


def test_the_tokenizer_hash_depends_on_all_that_makes_ids(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text("{}")
    text = TEACHER.text_cfg
    own = dataclasses.replace(text, tokenizer=str(file))
    hashes = [tokenizer_hash(each) for each in (text, own)]
    for change in ({"context_length": 13}, {"pad_id": 1}, {"vocab_size": 50_000}):
        hashes.append(tokenizer_hash(dataclasses.replace(text, **change)))
    hashes.append(tokenizer_hash(dataclasses.replace(own, tokenizer_clean="lower")))
    file.write_text("{ }")
    hashes.append(tokenizer_hash(own))
    assert len(set(hashes)) == len(hashes)
    moved = tmp_path / "elsewhere.json"
    moved.write_text("{ }")
    assert tokenizer_hash(dataclasses.replace(own, tokenizer=str(moved))) == hashes[-1]
