"""Files that are whole or not there, whenever the process or the machine stops, and their checksums as they are written."""

import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path


def write_durably(path: Path, parts: Iterable[bytes | memoryview]) -> str:
    """The whole file, on the disk itself, or the one before it, whatever happens. Returns its checksum."""
    draft = path.with_name(f".{path.name}.draft")
    digest = hashlib.blake2b(digest_size=16)
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
