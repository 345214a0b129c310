"""The index on disk: one SQLite file with thumbnails, embeddings of any number of models, and the files that were damaged.

A transaction is on the disk or it is not, so that a kill at any time leaves a whole index, without what was not yet
committed.
"""

import dataclasses
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from clip_jax.search.exact import Vectors

FILE = "index.sqlite"
_FORMAT = 1
_TABLES = """
CREATE TABLE folder (path BLOB NOT NULL);
CREATE TABLE models (id INTEGER PRIMARY KEY, source TEXT NOT NULL, identity TEXT NOT NULL UNIQUE, size INTEGER NOT NULL);
CREATE TABLE files (id INTEGER PRIMARY KEY AUTOINCREMENT, path BLOB NOT NULL UNIQUE, bytes INTEGER NOT NULL,
  mtime INTEGER NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL, thumbnail BLOB NOT NULL);
CREATE TABLE embeddings (model INTEGER NOT NULL REFERENCES models, file INTEGER NOT NULL REFERENCES files ON DELETE CASCADE,
  vector BLOB NOT NULL, PRIMARY KEY (model, file));
CREATE INDEX embeddings_of_file ON embeddings (file);
CREATE TABLE damaged (path BLOB PRIMARY KEY, bytes INTEGER NOT NULL, mtime INTEGER NOT NULL, reason TEXT NOT NULL);
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class File:
    """path: below the folder, as the system's bytes. size: bytes. mtime: nanoseconds."""

    path: bytes
    size: int
    mtime: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """A file's thumbnail (JPEG), its embedding f32[E], and the width and height of the original in pixels."""

    file: File
    thumbnail: bytes
    vector: np.ndarray
    width: int
    height: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexedModel:
    """source: where it was loaded from. identity: a hash of its weights and settings. size: E."""

    id: int
    source: str
    identity: str
    size: int


class Store:
    """An open index. May be shared among threads, which take turns."""

    def __init__(self, out: Path, *, create: bool = False):
        """Raises FileNotFoundError where there is none (unless `create`), ValueError for a file that is no index."""
        file = out / FILE
        if not file.exists():
            if not create:
                raise FileNotFoundError(
                    f"{out} is no search index; make it: clip-jax search index --model M FOLDER --out {out}"
                )
            if out.is_file() or (out.is_dir() and any(out.iterdir())):
                raise ValueError(f"{out} holds other things; give --out a new or empty folder")
            out.mkdir(parents=True, exist_ok=True)
        self.out, self._lock = out, threading.Lock()
        self._base = sqlite3.connect(file, check_same_thread=False, isolation_level=None, timeout=5)
        try:
            version = self._base.execute("PRAGMA user_version").fetchone()[0]
            if version == 0 and create:
                self._base.executescript(f"BEGIN EXCLUSIVE; {_TABLES} PRAGMA user_version = {_FORMAT}; COMMIT;")
                version = _FORMAT
        except sqlite3.DatabaseError as error:
            self._base.close()
            raise ValueError(f"{file} cannot be read as an index ({error}); remove {out} and index again") from error
        if version != _FORMAT:
            self._base.close()
            raise ValueError(
                f"{file} is of version {version}, this program reads {_FORMAT}; index again into a new folder"
            )
        self._base.execute("PRAGMA foreign_keys = ON")
        self._base.execute("PRAGMA synchronous = FULL")

    def close(self) -> None:
        """Closes the file."""
        self._base.close()

    def folder(self) -> bytes | None:
        """The folder indexed, None in a new index."""
        found = self._rows("SELECT path FROM folder")
        return found[0][0] if found else None

    def set_folder(self, path: bytes) -> None:
        """Raises ValueError where the index is of another one."""
        if (own := self.folder()) is None:
            self._change([("INSERT INTO folder VALUES (?)", [(path,)])])
        elif own != path:
            raise ValueError(f"{self.out} is an index of {shown(own)}, not of {shown(path)}; give --out another folder")

    def models(self) -> tuple[IndexedModel, ...]:
        """In the order they were added."""
        found = self._rows("SELECT id, source, identity, size FROM models ORDER BY id")
        return tuple(IndexedModel(id=row[0], source=row[1], identity=row[2], size=row[3]) for row in found)

    def add_model(self, source: str, identity: str, size: int) -> IndexedModel:
        """The model of that identity, added where it is not there.

        Raises ValueError where `source` held other weights when the index was made.
        """
        for model in self.models():
            if model.identity == identity:
                return model
            if model.source == source:
                raise ValueError(
                    f"{self.out} was made with other weights of {source}: theirs are {model.identity[:12]}, the model's now "
                    f"{identity[:12]}; index into another --out, or bring the weights back"
                )
        self._change([("INSERT INTO models (source, identity, size) VALUES (?, ?, ?)", [(source, identity, size)])])
        return self.models()[-1]

    def known(self, model: IndexedModel) -> dict[bytes, File]:
        """By path: the files that have an embedding of `model`."""
        found = self._rows(
            "SELECT path, bytes, mtime FROM files JOIN embeddings ON file = id WHERE model = ?", (model.id,)
        )
        return {row[0]: File(path=row[0], size=row[1], mtime=row[2]) for row in found}

    def damaged(self) -> dict[bytes, tuple[File, str]]:
        """By path: the files that could not be read, with the reason."""
        found = self._rows("SELECT path, bytes, mtime, reason FROM damaged ORDER BY path")
        return {row[0]: (File(path=row[0], size=row[1], mtime=row[2]), row[3]) for row in found}

    def drop_all_but(self, paths: set[bytes]) -> int:
        """Forgets files that are gone. Returns how many pictures they were."""
        gone = [row for row in self._rows("SELECT path FROM files") if row[0] not in paths]
        lost = [(path,) for path in self.damaged() if path not in paths]
        self._change([("DELETE FROM files WHERE path = ?", gone), ("DELETE FROM damaged WHERE path = ?", lost)])
        return len(gone)

    def add(self, model: IndexedModel, pictures: Sequence[Picture], damaged: Sequence[tuple[File, str]]) -> None:
        """All of them or, whatever happens, none. A file that has changed loses what was known of it before."""
        both = [picture.file for picture in pictures] + [file for file, _ in damaged]
        changed = [(file.path, file.size, file.mtime) for file in both]
        rows = [(p.file.path, p.file.size, p.file.mtime, p.width, p.height, p.thumbnail) for p in pictures]
        vectors = [(model.id, p.vector.astype("<f4").tobytes(), p.file.path) for p in pictures]
        self._change(
            [
                ("DELETE FROM files WHERE path = ? AND (bytes != ? OR mtime != ?)", changed),
                ("DELETE FROM damaged WHERE path = ?", [(file.path,) for file in both]),
                (
                    "INSERT OR IGNORE INTO files (path, bytes, mtime, width, height, thumbnail) VALUES (?, ?, ?, ?, ?, ?)",
                    rows,
                ),
                ("INSERT OR REPLACE INTO embeddings SELECT ?, id, ? FROM files WHERE path = ?", vectors),
                ("INSERT INTO damaged VALUES (?, ?, ?, ?)", [(f.path, f.size, f.mtime, why) for f, why in damaged]),
            ]
        )

    def count(self) -> int:
        """Pictures, with whatever models."""
        return self._rows("SELECT count(*) FROM files")[0][0]

    def vectors(self, model: IndexedModel) -> Vectors:
        """All of one model, in the order of their numbers."""
        with self._lock:
            count = self._base.execute("SELECT count(*) FROM embeddings WHERE model = ?", (model.id,)).fetchone()[0]
            rows, numbers = np.zeros((count, model.size), np.float32), np.zeros(count, np.int64)
            found = self._base.execute(
                "SELECT file, vector FROM embeddings WHERE model = ? ORDER BY file LIMIT ?", (model.id, count)
            )
            for place, (number, vector) in enumerate(found):
                numbers[place], rows[place] = number, np.frombuffer(vector, "<f4")
        return Vectors(rows=rows, numbers=numbers)

    def numbers(self, model: IndexedModel) -> np.ndarray:
        """i64[N] of the pictures that have an embedding of `model`, ascending."""
        found = self._rows("SELECT file FROM embeddings WHERE model = ? ORDER BY file", (model.id,))
        return np.fromiter((row[0] for row in found), np.int64, len(found))

    def some_vectors(self, model: IndexedModel, numbers: Sequence[int]) -> Vectors:
        """Those of these numbers, ascending, that there are."""
        kept, rows = [], []
        for number in numbers:
            found = self._rows("SELECT vector FROM embeddings WHERE model = ? AND file = ?", (model.id, number))
            if found:
                kept.append(number)
                rows.append(np.frombuffer(found[0][0], "<f4"))
        return Vectors(rows=np.array(rows, np.float32).reshape(-1, model.size), numbers=np.array(kept, np.int64))

    def graph(self, model: IndexedModel) -> Path:
        """Where the model's approximate index lies, if it has one."""
        return self.out / f"graph-{model.id}.usearch"

    def about(self, number: int) -> tuple[str, int, int] | None:
        """(name to show, width, height) of a picture, None where there is none of that number."""
        found = self._rows("SELECT path, width, height FROM files WHERE id = ?", (number,))
        return (shown(found[0][0]), *found[0][1:]) if found else None

    def thumbnail(self, number: int) -> bytes | None:
        """JPEG of a picture, None where there is none of that number."""
        found = self._rows("SELECT thumbnail FROM files WHERE id = ?", (number,))
        return found[0][0] if found else None

    def _rows(self, query: str, values: Sequence[object] = ()) -> list[tuple]:
        with self._lock:
            return self._base.execute(query, values).fetchall()

    def _change(self, changes: Iterable[tuple[str, Sequence[Sequence[object]]]]) -> None:
        with self._lock:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                for query, rows in changes:
                    self._base.executemany(query, rows)
            except BaseException:
                self._base.execute("ROLLBACK")
                raise
            self._base.execute("COMMIT")


def shown(path: bytes) -> str:
    """A path of any bytes as text for people: what is no UTF-8, and control characters, as a replacement mark."""
    text = path.decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
