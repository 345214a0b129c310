"""clip-retrieval's layout as it writes it, matched to webdataset and table sources; whatever is wrong is named."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from clip_jax.data.clip_retrieval import ClipRetrieval
from clip_jax.data.source import sample_uid
from clip_jax.data.table import Table, TableConfig
from clip_jax.data.teacher_index import finish_store
from clip_jax.data.teacher_manifest import Manifest, SourceInfo, TeacherInfo
from clip_jax.data.teacher_shards import write_shard
from clip_jax.data.teacher_store import TeacherStore
from clip_jax.data.webdataset import WebDataset, WebDatasetConfig

DIM = 16
Rows = list[dict[str, str]]


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    return buffer.getvalue()


def tar(path: Path, keys: list[str]) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    with tarfile.open(path, "w") as archive:
        for key in keys:
            for name, data in ((f"{key}.png", png()), (f"{key}.txt", f"caption of {key}\n".encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def layout(folder: Path, parts: list[Rows], *, text: bool = True, seed: int = 0) -> np.ndarray:
    """Writes the folder as clip-retrieval does, f16 rows of about unit norm; returns all (image, text) f16[2, rows, D]."""
    rng = np.random.default_rng(seed)
    for name in ("img_emb", "metadata", *(["text_emb"] if text else [])):
        (folder / name).mkdir(parents=True, exist_ok=True)
    written = []
    for number, rows in enumerate(parts):
        both = rng.standard_normal((2, len(rows), DIM))
        both = (both / np.linalg.norm(both, axis=-1, keepdims=True)).astype(np.float16)
        np.save(folder / "img_emb" / f"img_emb_{number}.npy", both[0])
        if text:
            np.save(folder / "text_emb" / f"text_emb_{number}.npy", both[1])
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), folder / "metadata" / f"metadata_{number}.parquet")
        written.append(both)
    return np.concatenate(written, 1)


def row(path: str, **more: str) -> dict[str, str]:
    return {"image_path": path, "caption": f"caption of {path}\n"} | more


def expected(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=-1, keepdims=True)


def img2dataset_keys(shard: int) -> list[str]:
    return [f"{shard:05d}{sample:04d}" for sample in range(5)]


def web(folder: Path, **options) -> WebDataset:
    return WebDataset(WebDatasetConfig(urls=f"{folder}/**/*.tar", name="web", index_cache=str(folder / "c"), **options))


@pytest.fixture
def source(tmp_path):
    for shard in range(3):
        tar(tmp_path / "tars" / f"{shard:05d}.tar", img2dataset_keys(shard))
    return web(tmp_path / "tars")


KEYS = [key for shard in range(3) for key in img2dataset_keys(shard)]


def test_import_makes_a_store_of_the_source(tmp_path, source):
    order = [KEYS[i] for i in np.random.default_rng(1).permutation(15)]
    parts = [[row(key) for key in order[:6]], [row(key) for key in order[6:13]]]  # two samples have no row
    image, text = layout(tmp_path / "emb", parts)
    found = ClipRetrieval(tmp_path / "emb", source)
    assert (found.embed_dim, found.has_text, found.missing) == (DIM, True, 2)
    shards = list(found.shards(4))
    assert [len(shard.uid) + len(shard.bad) for shard in shards] == [4, 4, 4, 3]
    every = [uid for shard in shards for uid in sorted([*shard.uid.tolist(), *shard.bad.tolist()])]
    assert set(every) == {source.uid(index) for index in range(15)}
    infos = [write_shard(tmp_path, number, shard, dtype="float32") for number, shard in enumerate(shards)]
    manifest = Manifest(
        teacher=TeacherInfo(name="clip-retrieval", weights_hash="", embed_dim=DIM, logit_scale=4.6),
        tokenizer="",
        preprocessing={},
        source=SourceInfo(name="web", samples=15),
        captions=True,
        dtype="float32",
        rows_per_shard=4,
    )
    finish_store(tmp_path, manifest, infos)
    store = TeacherStore(tmp_path)
    store.check_source(source)
    for place, key in enumerate(order[:13]):
        uid = sample_uid("web", f"{key[:5]}.tar/{key}")
        rows = store.rows(np.array([uid], np.uint64))
        np.testing.assert_allclose(store.image(rows)[0], expected(image[place]), atol=1e-7)
        np.testing.assert_allclose(store.text(rows, [f"caption of {key}"])[0], expected(text[place]), atol=1e-7)
    assert all(store.is_bad(sample_uid("web", f"{key[:5]}.tar/{key}")) for key in order[13:])


def uids(source: WebDataset | Table) -> list[int]:
    return [source.uid(index) for index in range(len(source))]


def imported(folder: Path, source: WebDataset | Table) -> dict[int, np.ndarray]:
    shards = ClipRetrieval(folder, source).shards(100)
    return {uid: shard.image[i, 0] for shard in shards for i, uid in enumerate(shard.uid.tolist())}


def test_keys_that_say_nothing_of_their_shard(tmp_path):
    names = {"b/x.tar": ["dogs/one", "dogs/two"], "a/x.tar": ["one", "two"], "a/y.tar": ["three"]}
    for name, keys in names.items():
        tar(tmp_path / "tars" / name, keys)
    source = web(tmp_path / "tars")
    rows = [row(key) for keys in names.values() for key in keys]
    image, _ = layout(tmp_path / "emb", [rows, [row("of another set")]])
    found = imported(tmp_path / "emb", source)
    assert set(found) == set(uids(source))
    for place, (name, key) in enumerate((name, key) for name, keys in names.items() for key in keys):
        np.testing.assert_allclose(found[sample_uid("web", f"{name}/{key}")], expected(image[place]), atol=1e-7)


def test_the_key_column_where_image_path_is_none_of_ours(tmp_path, source):
    image, _ = layout(
        tmp_path / "emb", [[row(f"/data/{key}.jpg", key=key, caption=f"caption of {key}") for key in KEYS]]
    )
    found = imported(tmp_path / "emb", source)
    for place, key in enumerate(KEYS):
        np.testing.assert_allclose(found[sample_uid("web", f"{key[:5]}.tar/{key}")], expected(image[place]), atol=1e-7)


def test_image_path_counts_before_the_key(tmp_path, source):
    image, _ = layout(tmp_path / "emb", [[row(KEYS[0], key=KEYS[7]), row(KEYS[1], key=KEYS[0])]])
    found = imported(tmp_path / "emb", source)
    assert set(found) == {source.uid(0), source.uid(1)}
    np.testing.assert_allclose(found[source.uid(0)], expected(image[0]), atol=1e-7)


def test_a_table_by_paths_and_captions(tmp_path):
    rows = []
    for number in range(4):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / f"{number}.png").write_bytes(png())
        rows.append((f"images/{number}.png", f"caption {number}"))
    (tmp_path / "t.csv").write_text("filepath,title\n" + "".join(f"{path},{title}\n" for path, title in rows))
    source = Table(TableConfig(path=str(tmp_path / "t.csv"), name="t"))
    given = [{"image_path": f"/disk/{path}", "caption": f"{title}\n"} for path, title in reversed(rows)]
    image, _ = layout(tmp_path / "emb", [given])
    found = imported(tmp_path / "emb", source)
    for index in range(4):
        np.testing.assert_allclose(found[source.uid(index)], expected(image[3 - index]), atol=1e-7)


def test_several_rows_of_a_sample_are_its_captions(tmp_path, source):
    key = KEYS[7]
    rows = [row(key), row(key), row(key, caption="another"), row(KEYS[8])]
    image, text = layout(tmp_path / "emb", [rows])
    (shard,) = ClipRetrieval(tmp_path / "emb", source).shards(15)
    place = shard.uid.tolist().index(sample_uid("web", f"{key[:5]}.tar/{key}"))
    assert shard.captions is not None
    assert shard.text is not None
    assert shard.captions[place] == [f"caption of {key}", "another"]
    start = sum(map(len, shard.captions[:place]))
    np.testing.assert_allclose(shard.text[start : start + 2], expected(text[[0, 2]]), atol=1e-7)
    np.testing.assert_allclose(shard.image[place, 0], expected(image[0]), atol=1e-7)


def test_images_without_texts_and_rows_without_direction(tmp_path, source, caplog):
    layout(tmp_path / "emb", [[{"image_path": key} for key in KEYS]], text=False)
    path = tmp_path / "emb" / "img_emb" / "img_emb_0.npy"
    rows = np.load(path)
    rows[3], rows[9, 2], rows[11, 5] = 0, np.nan, np.inf
    np.save(path, rows)
    (shard,) = ClipRetrieval(tmp_path / "emb", source).shards(100)
    assert shard.captions is None
    assert shard.text is None
    assert set(shard.bad.tolist()) == {source.uid(index) for index in (3, 9, 11)}
    assert np.isfinite(shard.image).all()
    assert "3 image embeddings are zero or not finite" in caplog.text
    layout(tmp_path / "emb", [[row(key) for key in KEYS]])
    np.save(tmp_path / "emb" / "text_emb" / "text_emb_0.npy", np.zeros((15, DIM), np.float16))
    with pytest.raises(ValueError, match="text_emb: row 0 of part 0 is zero or not finite; remove text_emb"):
        ClipRetrieval(tmp_path / "emb", source)


def test_embeddings_of_another_data_set(tmp_path, source):
    layout(tmp_path / "emb", [[row("cat1", key="7"), row("cat2", key="8")]])
    with pytest.raises(ValueError, match="none of its 2 rows belongs to any of the 15 samples of 'web'") as caught:
        ClipRetrieval(tmp_path / "emb", source)
    assert "image_path 'cat1' and key '7', the first sample is in" in str(caught.value)
    assert "00000.tar" in str(caught.value)


def test_captions_that_were_not_embedded(tmp_path, source):
    layout(tmp_path / "emb", [[row(key, caption="generated") for key in KEYS]])
    with pytest.raises(
        ValueError, match=r"has the caption 'caption of 000000000', which was not embedded.*\['generated'\]"
    ):
        ClipRetrieval(tmp_path / "emb", source)


def remove(folder: Path, name: str) -> None:
    (folder / name).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: remove(f, "metadata/metadata_1.parquet"), "metadata_1.parquet is missing; the folder lacks a part"),
        (lambda f: remove(f, "text_emb/text_emb_1.npy"), "text_emb_1.npy is missing"),
        (lambda f: (f / "img_emb/img_emb_1.npy").write_bytes(b"junk"), "img_emb_1.npy is no readable array"),
        (
            lambda f: (f / "metadata/metadata_0.parquet").write_bytes(b"junk"),
            "metadata_0.parquet is no readable parquet",
        ),
        (lambda f: np.save(f / "img_emb/img_emb_0.npy", np.ones((9, DIM))), "part 0 has embeddings .* for 10 rows"),
        (lambda f: np.save(f / "img_emb/img_emb_0.npy", np.ones((10, 3))), "as many and of one size"),
        (lambda f: np.save(f / "img_emb/img_emb_0.npy", np.ones((10, DIM), int)), "does not hold floats"),
        (lambda f: np.save(f / "img_emb/img_emb_0.npy", np.ones(10)), "does not hold floats"),
        (
            lambda f: np.save(f / "img_emb/img_emb_0.npy", np.array([{"a": 1}] * 10), allow_pickle=True),
            "no readable array: Array can.t be memory-mapped: Python objects",
        ),
        (
            lambda f: pyarrow.parquet.write_table(
                pa.table({"image_path": ["a"] * 10}), f / "metadata" / "metadata_0.parquet"
            ),
            "has the columns image_path; needed are image_path or key, and with texts caption",
        ),
    ],
)
def test_a_layout_that_is_damaged(tmp_path, source, damage, message):
    layout(tmp_path / "emb", [[row(key) for key in KEYS[:10]], [row(key) for key in KEYS[10:]]])
    damage(tmp_path / "emb")
    with pytest.raises(ValueError, match=message):
        ClipRetrieval(tmp_path / "emb", source)


def test_parts_of_two_models_and_folders_that_are_none(tmp_path, source):
    layout(tmp_path / "emb", [[row(key) for key in KEYS[:10]], [row(key) for key in KEYS[10:]]], text=False)
    np.save(tmp_path / "emb" / "img_emb" / "img_emb_1.npy", np.ones((5, 8)))
    with pytest.raises(ValueError, match="of several sizes, 8, 16, are of several models"):
        ClipRetrieval(tmp_path / "emb", source)
    with pytest.raises(ValueError, match=r"has no img_emb/img_emb_0.npy; give the output_folder"):
        ClipRetrieval(tmp_path, source)
    with pytest.raises(FileNotFoundError, match="is no folder; give the output_folder"):
        ClipRetrieval(tmp_path / "nothing", source)
