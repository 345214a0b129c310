"""Named arrays in one file: written atomically, checked on opening, read by memory mapping.

Processes that map the same file share its pages, so an index of many gigabytes costs a machine its size once.
Layout: magic, length of the head (8 bytes), the head as JSON, then each array at a multiple of 64 bytes.
"""

import contextlib
import json
import mmap
import os
import tempfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

_MAGIC = b"clipjax1"
_ALIGN = 64  # bytes


def save(path: str, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes `arrays` (any dtype but object) and `meta`, which JSON can hold. Raises OSError."""
    entries, offset = [], 0
    for name, array in arrays.items():
        data = np.ascontiguousarray(array)
        entry = {
            "name": name,
            "dtype": data.dtype.str,
            "shape": data.shape,
            "offset": offset,
            "crc": zlib.crc32(_raw(data)),
        }
        entries.append(entry)
        offset = _aligned(offset + data.nbytes)
    head = json.dumps({"meta": meta, "arrays": entries}).encode()
    os.makedirs(os.path.dirname(path), exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".draft-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_MAGIC + len(head).to_bytes(8, "little") + zlib.crc32(head).to_bytes(4, "little") + head)
            for array in arrays.values():
                file.write(bytes(-file.tell() % _ALIGN))
                file.write(_raw(np.ascontiguousarray(array)))
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


def load(path: str, *, check: bool = True) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(meta, arrays), the arrays read-only and mapped. check: read every byte once and compare checksums.

    Raises OSError where there is no such file, ValueError for a damaged one.
    """
    with open(path, "rb") as file:
        prefix = file.read(20)
        head = file.read(int.from_bytes(prefix[8:16], "little")) if prefix[:8] == _MAGIC else b""
        if not head or zlib.crc32(head) != int.from_bytes(prefix[16:20], "little"):
            raise ValueError(f"{path}: no such index, or a damaged one")
        start = _aligned(20 + len(head))
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    parsed, arrays = json.loads(head), {}
    for entry in parsed["arrays"]:
        dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        begin = start + entry["offset"]
        raw = view[begin : begin + dtype.itemsize * int(np.prod(shape))]
        if len(raw) != dtype.itemsize * int(np.prod(shape)) or (check and zlib.crc32(raw) != entry["crc"]):
            raise ValueError(f"{path}: damaged in {entry['name']}")
        arrays[entry["name"]] = np.frombuffer(raw, dtype).reshape(shape)
    return parsed["meta"], arrays


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGN) * _ALIGN


def _raw(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
