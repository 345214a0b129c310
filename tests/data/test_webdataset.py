"""WebDataset shards: formats of tar, members of samples, the cached index, and what is said of damaged input."""

import io
import json
import logging
import pickle
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from clip_jax.data import files, mapped, tar_index, tars
from clip_jax.data.images import decode
from clip_jax.data.source import BadSample, sample_uid
from clip_jax.data.webdataset import WebDataset, WebDatasetConfig

ROOT = Path(__file__).parents[2]


def picture(shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def tar(members: dict[str, bytes] | list[tuple[str, bytes]], tar_format: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as archive:
        for name, data in dict(members).items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def pairs(first: int, count: int) -> dict[str, bytes]:
    """As img2dataset writes them: KEY.png, KEY.txt and KEY.json."""
    members = {}
    for i in range(first, first + count):
        fields = {"caption": f"caption {i}", "captions": {"de": f"Titel {i}", "fr": f"titre {i}"}, "tags": ["a", "b"]}
        members[f"{i:09d}.png"] = picture(i)
        members[f"{i:09d}.txt"] = f"caption {i}\n".encode()
        members[f"{i:09d}.json"] = json.dumps(fields).encode()
    return members


class Folder:
    """A folder for shards with its own cache."""

    def __init__(self, path: Path):
        self.path, self.cache = path, path / "cache"

    def write(self, name: str, data: bytes) -> str:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return str(target)

    def source(self, *urls: str, **options) -> WebDataset:
        options = {"name": "test", "index_cache": str(self.cache), **options}
        return WebDataset(WebDatasetConfig(urls=urls, **options))


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


@pytest.fixture
def three(folder):
    for shard in range(3):
        folder.write(f"{shard:05d}.tar", tar(pairs(shard * 4, 4)))
    return folder


def test_samples_in_order(three):
    source = three.source(f"{three.path}/{{00000..00002}}.tar")
    assert len(source) == 12
    assert source.classes == ()
    for i, sample in enumerate(source[i] for i in range(12)):
        assert isinstance(sample.image, bytes)
        assert decode(sample.image)[0, 0, 0] == i
        assert sample.captions == (f"caption {i}",)
        assert sample.label is None
        assert sample.uid == source.uid(i) == sample_uid("test", f"{i // 4:05d}.tar/{i:09d}")
        assert source.shard(i) == f"{three.path}/{i // 4:05d}.tar"
    for outside in (-1, 12):
        with pytest.raises(IndexError, match=f"sample {outside} of 12"):
            source[outside]


def test_wildcards_lists_and_braces_agree(three):
    names = [f"{three.path}/{i:05d}.tar" for i in range(3)]
    by_list = three.source(*names)
    for urls in (f"{three.path}/*.tar", f"{three.path}/0000[0-2].tar", f"{three.path}/{{00000,00001,00002}}.tar"):
        source = WebDataset(WebDatasetConfig(urls=urls, name="test", index_cache=str(three.cache)))
        assert [source.uid(i) for i in range(12)] == [by_list.uid(i) for i in range(12)]
    assert three.source(f"file://{names[1]}")[0].captions == ("caption 4",)


def test_braces():
    assert files.expand("a/{8..11}{x,y}.tar")[:3] == ["a/8x.tar", "a/8y.tar", "a/9x.tar"]
    assert files.expand("s3://b/{098..101}.tar")[-1] == "s3://b/101.tar"
    assert files.expand("https://host/a.tar?token=1") == ["https://host/a.tar?token=1"]
    with pytest.raises(ValueError, match=r"counts down; give \{1..3\}"):
        files.expand("{3..1}.tar")


def test_memory_file_system_equals_local(three):
    system = fsspec.filesystem("memory")
    for shard in range(3):
        system.pipe_file(f"/wds/{shard:05d}.tar", (three.path / f"{shard:05d}.tar").read_bytes())
    try:
        local, remote = three.source(f"{three.path}/*.tar"), three.source("memory://wds/*.tar")
        assert [remote[i] for i in range(12)] == [local[i] for i in range(12)]
        assert remote.shard(5) == "memory:///wds/00001.tar"
        with pytest.raises(FileNotFoundError, match=r"no file matches 'memory://wds/\*.zip'"):
            three.source("memory://wds/*.zip")
        with pytest.raises(FileNotFoundError, match=r"1 of 2 files do not exist: memory://wds/00003.tar"):
            three.source("memory://wds/{00002..00003}.tar")
    finally:
        system.rm("/wds", recursive=True)


LONG = "folder/" * 30 + "x" * 120


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_formats_against_tarfile(tar_format):
    names = ["a.png", "folder/" * 18 + "b.png", "c" * 90 + ".png"]
    if tar_format != tarfile.USTAR_FORMAT:
        names += [LONG + ".png", "größe 日本.png", "é" * 60 + ".txt"]
    members = {name: bytes([i]) * (511 + i) for i, name in enumerate(names)}
    data = tar(members, tar_format)
    found, problem = tars.members(io.BytesIO(data), len(data))
    assert problem == ""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert found == [(info.name, info.offset_data, info.size) for info in archive]
    assert {name: data[offset : offset + size] for name, offset, size in found} == members


def test_global_pax_headers_links_folders_and_binary_sizes():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "all of it"}) as out:
        for name, kind in (("d", tarfile.DIRTYPE), ("l.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.png"
            out.addfile(info)
        info = tarfile.TarInfo("a.png")
        info.size, info.pax_headers = 3, {"size": "3", "mtime": "1.5"}
        out.addfile(info, io.BytesIO(b"abc"))
    data = bytearray(buffer.getvalue())
    found, problem = tars.members(io.BytesIO(data), len(data))
    assert ([name for name, _, _ in found], problem) == (["a.png"], "")
    assert data[found[0].offset :][:3] == b"abc"
    assert tars._number(b"\x80\0\0\0\0\0\0\1\0\0\0\5") == (1 << 32) + 5


def test_keys_end_at_the_first_dot_and_members_need_no_order(folder):
    url = folder.write(
        "0.tar",
        tar(
            {
                "./d.ir/b.txt": b"b",
                "a.seg.png": b"not the image",
                "a.PNG": picture(1),
                "._a.png": b"resource fork",
                "README": b"no extension",
                "d.ir/b.webp": picture(2),
                "a.txt": b"a",
            }
        ),
    )
    source = folder.source(url)
    assert [(source[i].captions, source._index.key(i)) for i in range(2)] == [(("b",), "d.ir/b"), (("a",), "a")]
    assert source[1].image == picture(1)


def test_image_extensions_in_order_of_preference(folder):
    url = folder.write("0.tar", tar({"a.png": b"png", "a.jpg": b"jpg", "a.txt": b"a", "b.png": b"b", "b.txt": b"b"}))
    assert [folder.source(url)[i].image for i in range(2)] == [b"jpg", b"b"]
    assert [folder.source(url, images=("png", "jpg"))[i].image for i in range(2)] == [b"png", b"b"]
    assert len(folder.source(url, images=("jpg",))) == 1


def test_captions_from_json(three):
    source = three.source(f"{three.path}/00000.tar", text=(), json_keys=("captions", "tags", "nothing"))
    assert source[2].captions == ("Titel 2", "titre 2", "a", "b")
    both = three.source(f"{three.path}/00000.tar", json_keys=("caption", "captions"))
    assert both[2].captions == ("caption 2", "Titel 2", "titre 2")  # the same text in txt and json counts once
    with pytest.raises(BadSample, match="empty caption"):
        three.source(f"{three.path}/00000.tar", text=(), json_keys=("nothing",))[0]


def test_several_text_members_and_long_captions(folder):
    long = "word " * 2_000
    url = folder.write(
        "0.tar", tar({"a.png": b"", "a.txt": long.encode(), "a.alt": b"\xef\xbb\xbfalt", "a.title": b" "})
    )
    assert folder.source(url, text=("title", "alt", "txt"))[0].captions == ("alt", long.strip())
    assert len(long) == 10_000


def test_bad_captions_and_json(folder):
    members = {}
    for key, text in (("a", b""), ("b", b" \n"), ("c", b"caf\xe9"), ("d", b"fine")):
        members |= {f"{key}.png": picture(), f"{key}.txt": text, f"{key}.json": b"{" if key == "d" else b"[1]"}
    url = folder.write("0.tar", tar(members))
    source = folder.source(url)
    for i, message in enumerate(["empty caption", "empty caption", "text is not UTF-8"]):
        with pytest.raises(BadSample, match=message):
            source[i]
    assert source[3].captions == ("fine",)
    source = folder.source(url, json_keys=("caption",))
    with pytest.raises(BadSample, match="json does not parse"):
        source[3]
    with pytest.raises(BadSample, match="empty caption"):
        source[0]


def test_labels(folder):
    members = {}
    for key, label in (("a", b"1\n"), ("b", b"cat"), ("c", b"2"), ("d", b"horse")):
        members |= {f"{key}.png": picture(), f"{key}.txt": b"t", f"{key}.cls": label}
    url = folder.write("0.tar", tar(members | {"e.png": picture(), "e.txt": b"t"}))
    source = folder.source(url, classes=("cat", "dog"))
    assert source.classes == ("cat", "dog")
    assert [source[i].label for i in (0, 1, 4)] == [1, 0, None]
    for i, text in ((2, "2"), (3, "horse")):
        with pytest.raises(BadSample, match=f"label '{text}' is none of 2 classes"):
            source[i]
    assert folder.source(url)[0].label is None


def test_json_too_deep_and_labels_too_long_are_bad_samples(folder):
    members = {"a.png": picture(), "a.txt": b"a", "a.json": b"[" * 200_000, "a.cls": b"7" * 5_000}
    url = folder.write("0.tar", tar(members))
    with pytest.raises(BadSample, match="json does not parse"):
        folder.source(url, json_keys=("caption",))[0]
    with pytest.raises(BadSample, match=r"label '7{40}' is none of 2 classes"):
        folder.source(url, classes=("cat", "dog"))[0]


def test_incomplete_samples_are_left_out_and_counted(folder, caplog):
    members = pairs(0, 3) | {"x.png": picture(), "y.txt": b"y", "z.txt": b"z", "z.json": b"{}"}
    url = folder.write("0.tar", tar(members))
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        with caplog.at_level(logging.INFO):
            assert len(folder.source(url)) == 3
        assert "3 samples in 1 shards; left out: 2 without image, 1 without caption" in caplog.text


def test_nothing_usable_names_what_is_there(folder, caplog):
    url = folder.write("0.tar", tar({f"{i}.{extension}": b"" for i in range(3) for extension in ("tif", "cls")}))
    with pytest.raises(
        ValueError, match=r"shards hold .tif \(3\), .cls \(3\); images are sought in .jpg, .*captions in"
    ):
        folder.source(url)
    with pytest.raises(ValueError, match="1 shards hold no members"):
        folder.source(folder.write("1.tar", tar({})))
    assert len(folder.source(url, folder.write("2.tar", tar(pairs(0, 1))))) == 1
    assert f"{url} holds no usable sample" in caplog.text
    with pytest.raises(ValueError, match="give extensions"):
        folder.source(url, text=())


def test_truncated_shard_uses_what_is_whole(folder, caplog):
    whole = tar(pairs(0, 5))
    found, _ = tars.members(io.BytesIO(whole), len(whole))
    cut = next(member for member in found if member.name == "000000003.txt").offset + 4
    for end in (cut, cut - 300):  # within the caption's bytes, and within its header
        url = folder.write("0.tar", whole[:end])
        caplog.clear()
        source = folder.source(url)
        assert [source[i].captions for i in range(len(source))] == [(f"caption {i}",) for i in range(3)]
        assert f"{url} is cut at byte {end:,}; its 3 samples before that are used" in caplog.text
    end = next(member for member in found if member.name == "000000002.png").offset - 512
    caplog.clear()
    assert (
        len(folder.source(folder.write("0.tar", whole[:end]))) == 2
    )  # between two members: the closing mark is missing
    assert f"cut at byte {end:,}" in caplog.text


def test_every_cut_gives_whole_members_only():
    whole = tar(pairs(0, 2), tarfile.GNU_FORMAT)
    found, _ = tars.members(io.BytesIO(whole), len(whole))
    for end in range(1, len(whole), 37):
        try:
            kept, problem = tars.members(io.BytesIO(whole[:end]), end)
        except tars.NotATar:
            assert end < 512
            continue
        assert kept == [member for member in found if member.offset + member.size <= end]
        assert (problem == "") == (end >= found[-1].offset + 2 * 512)  # past the first block of the closing mark


def test_damage_within_a_shard(folder, caplog):
    data = bytearray(tar(pairs(0, 5)))
    found, _ = tars.members(io.BytesIO(data), len(data))
    at = next(member for member in found if member.name == "000000002.png").offset - 512
    data[at : at + 20] = b"\xff" * 20
    source = folder.source(folder.write("0.tar", bytes(data)))
    assert len(source) == 2
    assert f"damaged at byte {at:,}" in caplog.text


@pytest.mark.parametrize(
    "field", [b"-0000001000\0", b"+0000001000\0", b"0_00001000\0\0", b"0o000001000\0", b"\xff" * 11 + b"\0"]
)
def test_a_size_that_is_no_octal_number_is_damage(field):
    data = bytearray(tar(pairs(0, 2)))
    found, _ = tars.members(io.BytesIO(data), len(data))
    at = found[2].offset - 512
    data[at + 124 : at + 136] = field
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    assert tars.members(io.BytesIO(data), len(data)) == (found[:2], f"damaged at byte {at:,}")


@pytest.mark.parametrize("size", ["-3", "3_0", "\u0663", "3.0", "9" * 21, "9" * 5_000])
def test_a_pax_size_that_is_no_decimal_number_is_damage(size):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as out:
        for name, headers in (("a.png", {}), ("b.png", {"size": size})):
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = 3, headers
            out.addfile(info, io.BytesIO(b"abc"))
    data = buffer.getvalue()
    found, problem = tars.members(io.BytesIO(data), len(data))
    assert ([member.name for member in found], problem) == (["a.png"], "damaged at byte 1,536")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b"<html>not found</html>", "it begins with b'<html>not found<"),
        (b"x" * 4096, "it begins with b'xxxx"),
        (b"\x1f\x8b\x08" + bytes(600), "it is compressed with gzip; unpack it"),
    ],
)
def test_no_tar(folder, data, message):
    good, bad = folder.write("0.tar", tar(pairs(0, 2))), folder.write("1.tar", data)
    with pytest.raises(ValueError, match=f"1.tar is no tar: {message}"):
        folder.source(good, bad)


def test_missing_shards_and_empty_lists(three):
    with pytest.raises(FileNotFoundError, match=r"2 of 5 files do not exist: .*00003.tar, .*00004.tar$"):
        three.source(f"{three.path}/{{00000..00004}}.tar")
    with pytest.raises(FileNotFoundError, match=r"no file matches '.*/\*.zip'"):
        three.source(f"{three.path}/*.zip")
    with pytest.raises(ValueError, match="no files given"):
        three.source()
    with pytest.raises(ValueError, match="no files given"):
        three.source("")
    with pytest.raises(ValueError, match="is a folder; name its files"):
        three.source(str(three.path))


def test_uids_are_distinct_across_shards_with_equal_keys(folder):
    urls = [folder.write(name, tar(pairs(0, 2))) for name in ("0.tar", "1.tar")]
    source = folder.source(*urls)
    assert len({source.uid(i) for i in range(4)}) == 4
    same_names = folder.source(*[folder.write(name, tar(pairs(0, 2))) for name in ("x/0.tar", "y/0.tar")])
    assert len({same_names.uid(i) for i in range(4)}) == 4
    assert same_names.uid(0) == sample_uid("test", "x/0.tar/000000000")
    moved = folder.source(folder.write("elsewhere/0.tar", tar(pairs(0, 2))))
    assert moved.uid(1) == source.uid(1)


def test_index_is_cached_and_rebuilt_when_shards_change(three, monkeypatch):
    built = []
    walk = tars.members
    monkeypatch.setattr(tars, "members", lambda *given: built.append(1) or walk(*given))
    urls = f"{three.path}/*.tar"
    first = three.source(urls)
    assert len(built) == 3
    assert [three.source(urls)[i] for i in range(12)] == [first[i] for i in range(12)]
    assert len(built) == 3
    assert len(list(three.cache.iterdir())) == 1
    three.source(urls, json_keys=("caption",))
    assert len(built) == 6
    three.write("00001.tar", tar(pairs(100, 2)))
    assert three.source(urls)[4].captions == ("caption 100",)
    assert len(built) == 9


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text"])
def test_damaged_cache_is_rebuilt(three, damage):
    urls = f"{three.path}/*.tar"
    expected = three.source(urls)[7]
    (cached,) = three.cache.iterdir()
    data = bytearray(cached.read_bytes())
    if damage == "flip":
        data[-3] ^= 255
    cached.write_bytes({"cut": data[:-200], "flip": data, "empty": b"", "text": b"hello " * 100}[damage])
    assert three.source(urls)[7] == expected
    assert len(cached.read_bytes()) == len(data)
    assert list(three.cache.iterdir()) == [cached]


def test_cache_that_cannot_be_written_is_no_failure(three):
    blocked = three.write("blocked", b"a file where the folder should be")
    source = three.source(f"{three.path}/*.tar", index_cache=blocked)
    assert len(source) == 12
    assert pickle.loads(pickle.dumps(source))[5] == source[5]


def test_default_cache_is_the_users(three, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(three.path / "xdg"))
    three.source(f"{three.path}/*.tar", index_cache="")
    assert len(list((three.path / "xdg" / "clip_jax").iterdir())) == 1


def test_pickle_sends_no_index(three):
    source = three.source(f"{three.path}/*.tar")
    sent = pickle.dumps(source)
    assert source[3] == pickle.loads(sent)[3]
    assert b"000000003" not in sent
    three.write("00001.tar", tar(pairs(100, 2)))
    three.source(f"{three.path}/*.tar")
    with pytest.raises(RuntimeError, match="rewritten for changed shards; start again"):
        pickle.loads(sent)


def test_threads_and_more_shards_than_open_files(folder, monkeypatch):
    monkeypatch.setattr("clip_jax.data.webdataset._OPEN_FILES", 2)
    for shard in range(6):
        folder.write(f"{shard}.tar", tar(pairs(shard * 3, 3)))
    source = folder.source(f"{folder.path}/*.tar")
    order = np.random.default_rng(0).integers(0, 18, 400).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert [sample.captions for sample in pool.map(source.__getitem__, order)] == [(f"caption {i}",) for i in order]


def test_shard_that_shrinks_or_goes_later_is_a_bad_sample(three):
    source = three.source(f"{three.path}/*.tar")
    three.write("00000.tar", b"")
    with pytest.raises(BadSample, match="cannot be read: 0 bytes at offset 512 where"):
        source[0]
    (three.path / "00001.tar").unlink()
    with pytest.raises(BadSample, match=r"cannot be read: .*No such file"):
        source[4]
    assert source[8].captions == ("caption 8",)


def test_members_far_apart_are_read_by_themselves(folder):
    apart = tar([("a.png", picture(7)), ("filler.bin", bytes(300_000)), ("a.txt", b"a")])
    source = folder.source(folder.write("0.tar", apart))
    assert (source[0].image, source[0].captions) == (picture(7), ("a",))


def test_nothing_is_said_of_files_still_open_when_python_exits(folder):
    script = "import os, sys; from clip_jax.data import files; os.kept = files.Reader(sys.argv[1])"
    command = [sys.executable, "-c", script, folder.write("0.tar", b"data")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stderr == ""


def test_progress_is_told(three):
    told = []
    config = WebDatasetConfig(urls=f"{three.path}/*.tar", name="test", index_cache=str(three.cache))
    WebDataset(config, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_index_takes_few_bytes_a_sample(folder):
    source = folder.source(
        folder.write("0.tar", tar({f"{i:09d}.{e}": b"x" for i in range(200) for e in ("jpg", "txt")}))
    )
    assert sum(array.nbytes for array in source._index._arrays.values()) <= 42 * 200


def test_mapped_arrays_of_every_shape(tmp_path):
    arrays = {"none": np.zeros((0, 3), np.int64), "one": np.array(5, np.uint8), "some": np.arange(6.0).reshape(2, 3)}
    mapped.save(str(tmp_path / "x" / "a.bin"), {"n": 1}, arrays)
    meta, loaded = mapped.load(str(tmp_path / "x" / "a.bin"))
    assert meta == {"n": 1}
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype == array.dtype
    with pytest.raises(OSError, match="No such file"):
        mapped.load(str(tmp_path / "missing"))


def test_columns_hold_the_first_image_then_captions(folder):
    url = folder.write("0.tar", tar({"a.webp": b"ww", "a.json": b"{}", "a.cls": b"1"}))
    columns = tar_index.Columns(images=("jpg", "webp"), captions=("txt", "json"), extra=("cls",))
    index = tar_index.TarIndex("test", [url], columns, cache=str(folder.cache))
    assert index.spans(0) == [(512, 2), None, (1536, 2), (2560, 1)]


def test_synthetic_captions_from_json(three):
    url = f"{three.path}/00000.tar"
    source = three.source(url, synthetic_keys=("captions", "tags", "nothing"))
    assert source[2].captions == ("caption 2",)
    assert source[2].synthetic == ("Titel 2", "titre 2", "a", "b")
    assert source[2].uid == three.source(url)[2].uid
    assert three.source(url)[2].synthetic == ()
    both = three.source(url, text=(), json_keys=("caption",), synthetic_keys=("tags",))
    assert (both[1].captions, both[1].synthetic) == (("caption 1",), ("a", "b"))
    with pytest.raises(ValueError, match=r"\['tags'\] in json_keys and synthetic_keys; keep each in one"):
        three.source(url, json_keys=("caption", "tags"), synthetic_keys=("tags",))


def test_samples_without_synthetic_captions(folder):
    members = {
        "a.png": picture(),
        "a.txt": b"a",
        "b.png": picture(),
        "b.txt": b"b",
        "b.json": b'{"s": [" ", "x", "x "]}',
    }
    members |= {"c.png": picture(), "c.json": b'{"s": "no caption"}', "d.png": picture(), "d.txt": b"d", "d.json": b"{"}
    members |= {"b.cls": b"1"}
    source = folder.source(folder.write("0.tar", tar(members)), synthetic_keys=("s",), classes=("no", "yes"))
    assert len(source) == 3  # a generated caption alone makes no sample
    assert [(source[i].captions, source[i].synthetic) for i in (0, 1)] == [(("a",), ()), (("b",), ("x",))]
    assert (source[0].label, source[1].label) == (None, 1)
    with pytest.raises(BadSample, match="json does not parse"):
        source[2]
