"""Files that are whole or not there, whenever the process or the machine stops, and their checksums."""

import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

_BLOCK = 1 << 24  # bytes hashed at a time


def write_durably(path: Path, parts: Iterable[bytes | memoryview]) -> str:
    """The whole file, on the disk itself, or the one before it, whatever happens. Returns its checksum."""
    draft = path.with_name(f".{path.name}.draft")
    digest = _digest()
    try:
        with draft.open("wb") as file:
            for part in parts:
                digest.update(part)
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # of the folder, which holds the name
    finally:
        os.close(descriptor)
    return digest.hexdigest()


def checksum(path: Path) -> str:
    """blake2b over the whole file, 16 bytes in hex."""
    digest = _digest()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _digest() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)
