"""A folder indexed, changed, damaged and killed: what is in the index, what is refused."""

import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import clip_jax
from clip_jax.search import indexing
from clip_jax.search.engine import Searcher, pick
from clip_jax.search.indexing import update
from clip_jax.search.store import FILE, Store, shown
from tests.search.pictures import draw


def names(store):
    return {store.about(number)[0] for number in store.vectors(store.models()[0]).numbers.tolist()}


def test_only_what_changed_is_embedded(tmp_path, folder, models):
    store = Store(tmp_path / "I", create=True)
    source, model = models[0]
    assert update(store, model, source, folder).added == 20
    assert update(store, model, source, folder).added == 0
    draw(folder / "0" / "0.png", 99, (50, 50))
    (folder / "1" / "1.png").unlink()
    draw(folder / "new.png", 5)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 50)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("no picture")
    done = update(store, model, source, folder)
    assert (done.pictures, done.added, done.gone, done.damaged) == (20, 2, 1, 2)
    reasons = [json.loads(line) for line in (tmp_path / "I" / "damaged.jsonl").read_text().splitlines()]
    assert [reason["file"] for reason in reasons] == ["broken.png", "empty.jpg"]
    assert "1/1.png" not in names(store)
    rows = store.vectors(store.models()[0])
    best, scores = rows.top(model.encode_image(str(folder / "0" / "0.png"))[0], 1)
    assert store.about(int(best[0])) == ("0/0.png", 50, 50)
    assert scores[0] > 0.9999


def test_after_a_kill_it_goes_on(tmp_path, folder, models):
    store = Store(tmp_path / "I", create=True)

    def die(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        update(store, models[0][1], models[0][0], folder, progress=die)
    store.close()
    store = Store(tmp_path / "I")
    assert store.count() == 8
    assert update(store, models[0][1], models[0][0], folder).added == 12


def test_hostile_names_and_links(tmp_path, models):
    folder = tmp_path / "pictures"
    hostile = [b"<img src=x onerror=alert(1)>.png", b'a\nb".png', b"\xff\xfe.png", b"l" * 250 + b".png"]
    draw(tmp_path / "outside" / "secret.png", 1)
    folder.mkdir()
    for name in hostile:
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write((tmp_path / "outside" / "secret.png").read_bytes())
    (folder / "link.png").symlink_to(tmp_path / "outside" / "secret.png")
    (folder / "links").symlink_to(tmp_path / "outside")
    os.mkfifo(folder / "pipe.png")
    store = Store(tmp_path / "I", create=True)
    assert update(store, models[0][1], models[0][0], folder).pictures == 4
    assert names(store) == {shown(name) for name in hostile}
    assert shown(b"a\nb\xff") == "a\ufffdb\ufffd"


def test_an_index_of_another_folder_or_model_is_refused(tmp_path, folder, models):
    store = Store(tmp_path / "I", create=True)
    (tmp_path / "other").mkdir()
    (source, model), (second, other) = models
    assert update(store, model, source, folder).added == 20
    with pytest.raises(ValueError, match=r"is an index of .*pictures, not of .*other"):
        update(store, model, source, tmp_path / "other")
    with pytest.raises(ValueError, match="was made with other weights"):
        update(store, other, source, folder)
    with pytest.raises(ValueError, match="was made with other weights"):
        Searcher(store, store.models()[0], other)
    with pytest.raises(ValueError, match="run clip-jax search index --model"):
        pick(store, second)
    assert update(store, other, second, folder).added == 20
    draw(folder / "later.png", 77)
    assert update(store, model, source, folder).added == 1
    with pytest.raises(ValueError, match="20 of 21 pictures have embeddings"):
        Searcher(store, pick(store, second), other)


def contents(store):
    """All that an index holds, but for the folder it is of."""
    with sqlite3.connect(store.out / FILE) as base:
        tables = ("models", "files", "embeddings", "damaged")
        return {table: base.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in tables}


def test_after_kill_9_the_index_becomes_the_same(tmp_path, folder, models):
    (folder / "1" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    whole, killed = Store(tmp_path / "whole", create=True), tmp_path / "killed"
    update(whole, models[0][1], models[0][0], folder)
    script = f"""
import os, signal, sys
from pathlib import Path
import clip_jax
from clip_jax.search.indexing import update
from clip_jax.search.store import Store

def die(done, total):
    if done == 16:
        os.kill(os.getpid(), signal.SIGKILL)

source = {models[0][0]!r}
update(Store(Path({str(killed)!r}), create=True), clip_jax.load(source, batch_size=8), source, Path({str(folder)!r}),
       progress=die)
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=Path(clip_jax.__file__).parent.parent)
    assert ended.returncode == -signal.SIGKILL
    store = Store(killed)
    assert 0 < store.count() < 20
    done = update(store, models[0][1], models[0][0], folder)
    assert (done.pictures, done.added, done.damaged) == (20, 20 - 15, 1)
    assert contents(store) == contents(whole)


@pytest.mark.parametrize("rows", [1, 5, 11])
def test_killed_within_a_transaction_nothing_of_it_is_there(tmp_path, rows):
    script = f"""
import os, signal, sys
from pathlib import Path
import numpy as np
from clip_jax.search.store import File, Picture, Store

class Deadly(Store):
    def _change(self, changes):
        super()._change((query, self.rows(values)) for query, values in changes)

    def rows(self, values):
        for value in values:
            yield value
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)

store = Deadly(Path({str(tmp_path / "I")!r}), create=True)
store.left = -1
model = store.add_model("m", "identity", 2)
pictures = [Picture(file=File(path=b"%d" % n, size=1, mtime=1), thumbnail=b"x" * 100_000, vector=np.zeros(2), width=1,
            height=1) for n in range(4)]
store.add(model, pictures[:1], [])
store.left = {rows}
store.add(model, pictures[1:], [])
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=Path(clip_jax.__file__).parent.parent)
    assert ended.returncode == -signal.SIGKILL
    store = Store(tmp_path / "I")
    assert len(store.known(store.models()[0])) == store.count() == 1
    store.close()


def test_bombs_and_huge_files_are_listed_and_not_opened(tmp_path, folder, models, monkeypatch):
    monkeypatch.setattr(indexing, "LARGEST_FILE", 3000)
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 10**5)), (b"IEND", b"")]
    png = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    (folder / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + png)
    (folder / "huge.png").write_bytes(b"x" * 3001)
    (folder / "script.png").write_bytes(b"%!PS\nshowpage")
    (folder / "page.jpg").write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    store = Store(tmp_path / "I", create=True)
    done = update(store, models[0][1], models[0][0], folder)
    assert (done.pictures, done.damaged) == (20, 4)
    reasons = {path: reason for path, (_, reason) in store.damaged().items()}
    assert reasons[b"bomb.png"] == "50000x50000 pixels, more than 100,000,000"
    assert reasons[b"huge.png"] == "3,001 bytes, more than 3,000"
    assert set(reasons) == {b"bomb.png", b"huge.png", b"script.png", b"page.jpg"}


def test_what_became_a_link_since_it_was_listed_is_not_followed(tmp_path, folder, models, monkeypatch):
    draw(tmp_path / "outside" / "0.png", 1)
    listed = list(indexing.walk(os.fsencode(folder), b""))

    def swap(root, leave_out):
        (folder / "0").rename(tmp_path / "was")
        (folder / "0").symlink_to(tmp_path / "outside")
        (folder / "1" / "1.png").unlink()
        (folder / "1" / "1.png").symlink_to(tmp_path / "outside" / "0.png")
        return listed

    monkeypatch.setattr(indexing, "walk", swap)
    store = Store(tmp_path / "I", create=True)
    done = update(store, models[0][1], models[0][0], folder)
    assert (done.pictures, done.damaged) == (12, 8)
    assert all(reason.startswith("cannot be read") for _, reason in store.damaged().values())
    assert not [name for name in names(store) if name.startswith("0/") or name == "1/1.png"]


def test_a_mended_file_is_damaged_no_longer(tmp_path, folder, models):
    (folder / "2" / "2.png").write_bytes(b"")
    store = Store(tmp_path / "I", create=True)
    assert update(store, models[0][1], models[0][0], folder).damaged == 1
    draw(folder / "2" / "2.png", 2)
    done = update(store, models[0][1], models[0][0], folder)
    assert (done.pictures, done.added, done.damaged) == (20, 1, 0)
    assert (tmp_path / "I" / "damaged.jsonl").read_bytes() == b""
