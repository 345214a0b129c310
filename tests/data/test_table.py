"""Tables of image paths and captions: formats, columns, labels, and what is said of wrong ones."""

import csv
import io
import pickle

import fsspec
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from clip_jax.data.images import decode
from clip_jax.data.source import BadSample
from clip_jax.data.table import Table, TableConfig

CAPTIONS = ["a cat", 'a "quoted", dog', "two\nlines", "größe", "NA", "x" * 10_000]
LABELS = ["cat", "dog", "cat", "emu", "dog", "cat"]


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(6):
        (tmp_path / "images" / f"{i}.png").write_bytes(png(i))
    return tmp_path


def write(path, columns: dict, separator: str = ",") -> str:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.table(columns), path)
    else:
        with open(path, "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, delimiter=separator)
            rows.writerow(columns)
            rows.writerows(zip(*columns.values(), strict=True))
    return str(path)


def columns(**more) -> dict:
    return {"filepath": [f"images/{i}.png" for i in range(6)], "title": CAPTIONS, **more}


def source(path: str, **options) -> Table:
    return Table(TableConfig(path=path, name="table", **options))


@pytest.mark.parametrize(
    ("name", "separator", "options"),
    [
        ("t.csv", ",", {}),
        ("t.tsv", "\t", {}),
        ("t.parquet", "", {}),
        ("t.csv", "\t", {"separator": "\t"}),
        ("t.data", "|", {"separator": "|"}),
    ],
)
def test_every_format_gives_the_same_samples(folder, name, separator, options):
    path = write(folder / name, columns(other=[str(i) for i in range(6)]), separator)
    table = source(path, **options)
    assert len(table) == 6
    for i in range(6):
        sample = table[i]
        assert isinstance(sample.image, bytes)
        assert decode(sample.image)[0, 0, 0] == i
        assert sample.captions == (CAPTIONS[i],)
        assert sample.label is None
        assert sample.uid == table.uid(i)
        assert table.shard(i) == path
    assert table.classes == ()
    assert len({table.uid(i) for i in range(6)}) == 6
    for outside in (-1, 6):
        with pytest.raises(IndexError, match=f"sample {outside} of 6"):
            table[outside]


def test_uids_stay_when_rows_and_files_move(folder):
    before = source(write(folder / "a.csv", columns()))
    turned = {name: values[::-1] for name, values in columns().items()}
    after = source(write(folder / "b.parquet", turned))
    assert [after.uid(i) for i in range(6)] == [before.uid(5 - i) for i in range(6)]


def test_several_captions_of_an_image(folder):
    rows = {"filepath": ["images/1.png"] * 2, "title": ["one", "two"]}
    table = source(write(folder / "t.csv", rows))
    assert [table[i].captions for i in range(2)] == [("one",), ("two",)]
    assert table.uid(0) != table.uid(1)
    lists = source(write(folder / "t.parquet", {"filepath": ["images/1.png"], "title": [["one", " ", "two"]]}))
    assert lists[0].captions == ("one", "two")


def test_synthetic_captions(folder):
    more = ["drawn", " ", "NA", "", "e", "f"]
    for name in ("t.csv", "t.parquet"):
        table = source(write(folder / name, columns(generated=more)), synthetic_key="generated")
        assert [table[i].synthetic for i in range(6)] == [("drawn",), (), ("NA",), (), ("e",), ("f",)]
        assert [table[i].captions for i in range(6)] == [(caption,) for caption in CAPTIONS]
        plain = source(str(folder / name))
        assert plain[0].synthetic == ()
        assert plain.uid(0) == table.uid(0)
    lists = [["x", " ", None, "y"], [], None, ["z"], ["z"], ["z"]]
    pyarrow.parquet.write_table(pa.table(columns(generated=lists)), folder / "lists.parquet")
    table = source(str(folder / "lists.parquet"), synthetic_key="generated")
    assert [table[i].synthetic for i in range(4)] == [("x", "y"), (), (), ("z",)]
    assert pickle.loads(pickle.dumps(table))[0] == table[0]
    with pytest.raises(ValueError, match=r"no column 'generate' but .*; did you mean 'generated'\?"):
        source(str(folder / "t.csv"), synthetic_key="generate")
    with pytest.raises(ValueError, match="column 'title' is both caption_key and synthetic_key"):
        source(str(folder / "t.csv"), synthetic_key="title")


def test_other_column_names_and_root(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("tables")
    rows = {"image": [f"{i}.png" for i in range(6)], "text": CAPTIONS}
    table = source(write(elsewhere / "t.csv", rows), img_key="image", caption_key="text", root=str(folder / "images"))
    assert table[3].image == png(3)
    absolute = {"filepath": [str(folder / "images" / "2.png")], "title": ["x"]}
    assert source(write(elsewhere / "a.csv", absolute))[0].image == png(2)


def test_remote_table_and_images(folder):
    system = fsspec.filesystem("memory")
    system.pipe_file("/table/images/0.png", png(9))
    system.pipe_file("/table/t.csv", b"\xef\xbb\xbffilepath,title\nimages/0.png,nine\nimages/1.png,none\n")
    try:
        table = source("memory://table/t.csv")
        assert (table[0].image, table[0].captions) == (png(9), ("nine",))
        with pytest.raises(BadSample, match="cannot be read: FileNotFoundError"):
            table[1]
    finally:
        system.rm("/table", recursive=True)


def test_labels(folder):
    named = source(write(folder / "a.csv", columns(label=LABELS)), label_key="label")
    assert named.classes == ("cat", "dog", "emu")
    assert [named[i].label for i in range(6)] == [0, 1, 0, 2, 1, 0]
    given = source(
        write(folder / "b.csv", columns(label=LABELS)), label_key="label", classes=("emu", "dog", "cat", "yak")
    )
    assert [given[i].label for i in range(6)] == [2, 1, 2, 0, 1, 2]
    numbers = write(folder / "c.parquet", columns(label=[0, 1, 0, 2, 1, 0]))
    assert source(numbers, label_key="label", classes=("a", "b", "c"))[3].label == 2
    with pytest.raises(ValueError, match="column 'label' holds numbers; set classes"):
        source(numbers, label_key="label")
    with pytest.raises(ValueError, match="label '2' is none of 2 classes"):
        source(numbers, label_key="label", classes=("a", "b"))


def test_bad_rows_at_access(folder):
    rows = {"filepath": ["images/0.png", "images/9.png", "images/1.png", ""], "title": [" ", "b", "c", "d"]}
    table = source(write(folder / "t.csv", rows))
    for i, message in [(0, "empty caption"), (1, r"cannot be read: .*9.png"), (3, "no image path")]:
        with pytest.raises(BadSample, match=message):
            table[i]
    assert table[2].captions == ("c",)
    nulls = pa.table({"filepath": ["images/0.png", None], "title": pa.array([None, "x"], pa.string())})
    pyarrow.parquet.write_table(nulls, folder / "n.parquet")
    table = source(str(folder / "n.parquet"))
    for i, message in [(0, "empty caption"), (1, "no image path")]:
        with pytest.raises(BadSample, match=message):
            table[i]
        assert table.uid(i)


def test_a_path_that_no_file_can_have_is_a_bad_sample(folder):
    rows = pa.table({"filepath": ["images/0.png", "images/\0.png"], "title": ["a", "b"]})
    pyarrow.parquet.write_table(rows, folder / "t.parquet")
    with pytest.raises(BadSample, match="cannot be read: embedded null byte"):
        source(str(folder / "t.parquet"))[1]


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_missing_column_names_those_there_are(folder, name):
    path = write(folder / name, {"filepaths": ["a"], "title": ["b"], "n": ["c"]})
    with pytest.raises(
        ValueError, match=r"no column 'filepath' but 'filepaths', 'title', 'n'; did you mean 'filepaths'\?"
    ):
        source(path)
    with pytest.raises(ValueError, match=r"no column 'zzz' but .*; set img_key, caption_key"):
        source(path, img_key="filepaths", caption_key="zzz")


def test_unusable_tables(folder):
    with pytest.raises(FileNotFoundError, match=r"1 of 1 files do not exist: .*none.csv"):
        source(str(folder / "none.csv"))
    with pytest.raises(ValueError, match="has no rows"):
        source(write(folder / "empty.csv", {"filepath": [], "title": []}))
    with pytest.raises(ValueError, match="has no rows"):
        source(
            write(folder / "empty.parquet", {"filepath": pa.array([], pa.string()), "title": pa.array([], pa.string())})
        )
    (folder / "void.csv").write_bytes(b"")
    with pytest.raises(ValueError, match="no readable table: Empty CSV"):
        source(str(folder / "void.csv"))
    (folder / "uneven.csv").write_text("filepath,title\nimages/0.png,a\nimages/1.png,b,c\n")
    with pytest.raises(ValueError, match=r"no readable table: .*Expected 2 columns, got 3"):
        source(str(folder / "uneven.csv"))
    (folder / "no.parquet").write_bytes(b"filepath,title\n")
    with pytest.raises(ValueError, match="no readable table"):
        source(str(folder / "no.parquet"))
    with pytest.raises(ValueError, match="its extension tells no separator; set separator"):
        source(write(folder / "t.data", columns()))
    with pytest.raises(ValueError, match=r"column 'title' holds struct.*, not texts"):
        source(write(folder / "s.parquet", {"filepath": ["a"], "title": [{"x": 1}]}))


def test_all_images_missing_is_said_at_once(folder):
    rows = {"filepath": [f"wrong/{i}.png" for i in range(100)], "title": ["x"] * 100}
    with pytest.raises(ValueError, match=r"none of 32 images looked for exists, for example .*wrong/0.png; set root"):
        source(write(folder / "t.csv", rows))


def test_pickle(folder):
    table = source(write(folder / "t.csv", columns(label=LABELS)), label_key="label")
    assert pickle.loads(pickle.dumps(table))[4] == table[4]
