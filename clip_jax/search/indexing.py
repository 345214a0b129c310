"""A folder of pictures into an index: only what is new or has changed is read and embedded."""

import dataclasses
import hashlib
import io
import json
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from clip_jax import inputs, tree
from clip_jax.data.images import decode
from clip_jax.data.source import BadSample
from clip_jax.durable import write_durably
from clip_jax.model import Model
from clip_jax.plain import to_dict
from clip_jax.search.approximate import check_extra, connect
from clip_jax.search.store import File, Picture, Store, shown

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".ppm", ".ico")
THUMBNAIL = 320  # pixels of the longer side: sharp at the page's 160 on screens of twice the density
LARGEST_FILE = 256 * 2**20  # bytes
_DAMAGED = "damaged.jsonl"
_THREADS = min(8, os.cpu_count() or 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """Numbers of pictures: in the index, of them embedded now; files forgotten now; files that are damaged."""

    pictures: int
    added: int
    gone: int
    damaged: int


def identity(model: Model) -> str:
    """A hash of a model's weights and settings."""
    settings = json.dumps(to_dict(model.config), sort_keys=True, default=str)
    return hashlib.blake2b((settings + tree.weights_hash(model.params)).encode(), digest_size=16).hexdigest()


def update(
    store: Store,
    model: Model,
    source: str,
    folder: Path,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    connecting: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Makes `store` an index of `folder` as it is now, with `model`'s embeddings; a part is durable once it is embedded.

    progress: called with (files done, files to do). connecting: likewise, of the approximate index that more than a million
    pictures need. Raises FileNotFoundError without a folder, ValueError where the index is of another folder, where `source`
    held other weights when it was made, and where there are so many pictures and no library for them.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; give the folder that holds the pictures")
    root = os.fsencode(folder.resolve())
    store.set_folder(root)
    entry = store.add_model(source, identity(model), model.embed_dim)
    found = list(walk(root, os.fsencode(store.out.resolve())))
    check_extra(len(found))
    gone = store.drop_all_but({file.path for file in found})
    known = store.known(entry) | {path: file for path, (file, _) in store.damaged().items()}
    new = [file for file in found if known.get(file.path) != file]
    added = 0
    progress(0, len(new))
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(new), model.batch_size):
            part = new[start : start + model.batch_size]
            read = list(pool.map(lambda file: _read(root, file, model), part))
            whole = [(file, one) for file, one in zip(part, read, strict=True) if not isinstance(one, str)]
            vectors = model.encode_image(np.stack([one.square for _, one in whole])) if whole else []
            pictures = [
                Picture(file=file, thumbnail=one.thumbnail, vector=vector, width=one.width, height=one.height)
                for (file, one), vector in zip(whole, vectors, strict=True)
            ]
            damaged = [(file, one) for file, one in zip(part, read, strict=True) if isinstance(one, str)]
            store.add(entry, pictures, damaged)
            added += len(pictures)
            progress(start + len(part), len(new))
    connect(store, entry, progress=connecting)
    lines = [{"file": shown(path), "reason": reason} for path, (_, reason) in store.damaged().items()]
    write_durably(store.out / _DAMAGED, [(json.dumps(line) + "\n").encode() for line in lines])
    return Outcome(pictures=store.count(), added=added, gone=gone, damaged=len(lines))


def walk(root: bytes, leave_out: bytes) -> Iterator[File]:
    """Regular files with a picture's ending, anywhere below `root`, in the order of names. Links are not followed: no
    picture from outside comes in. `leave_out`: a folder that is passed over, the index itself.
    """
    for above, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if os.path.join(above, name) != leave_out)
        for name in sorted(names):
            if not name.lower().endswith(tuple(map(str.encode, SUFFIXES))):
                continue
            path = os.path.join(above, name)
            try:
                status = os.lstat(path)
            except OSError:  # gone since it was listed
                continue
            if stat.S_ISREG(status.st_mode):
                yield File(path=os.path.relpath(path, root), size=status.st_size, mtime=status.st_mtime_ns)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Read:
    """square: u8[S, S, 3] as the model takes it."""

    square: np.ndarray
    thumbnail: bytes
    width: int
    height: int


def _read(root: bytes, file: File, model: Model) -> _Read | str:
    """A picture, or why there is none."""
    if file.size > LARGEST_FILE:
        return f"{file.size:,} bytes, more than {LARGEST_FILE:,}"
    try:
        with os.fdopen(_open(root, file.path), "rb") as opened:
            data = opened.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            return f"more than {LARGEST_FILE:,} bytes"
        pixels = decode(data)
        square = inputs.square(pixels, 0, model.image_size, model.config.preprocess_cfg)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except BadSample as error:
        return error.reason
    return _Read(square=square, thumbnail=thumbnail(pixels), width=pixels.shape[1], height=pixels.shape[0])


def _open(root: bytes, path: bytes) -> int:
    """A descriptor of `path` below `root`. Raises OSError where any part of it has become a link since it was listed."""
    *folders, name = path.split(b"/")
    above = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
            os.close(above)
            above = inner
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=above)
    finally:
        os.close(above)


def thumbnail(pixels: np.ndarray) -> bytes:
    """u8[H, W, 3] -> JPEG, its longer side at most THUMBNAIL pixels."""
    image, out = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    image.save(out, "JPEG", quality=82)
    return out.getvalue()
