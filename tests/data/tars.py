"""Tar shards small enough for tests, whose samples tell which they are."""

import io
import tarfile
from pathlib import Path

from PIL import Image

from clip_jax.data.webdataset import WebDataset, WebDatasetConfig


def picture(number: int) -> bytes:
    """A PNG of one colour; every number has as many bytes."""
    buffer = io.BytesIO()
    image = Image.new("RGB", (8, 8), (number % 256, number // 256, 0))
    image.save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def pairs(first: int, count: int, *, keys_from: int | None = None) -> list[tuple[str, bytes]]:
    """Samples `first` and on, a picture and "caption 00012" each; keys_from: of the first key, by default `first`."""
    start = first if keys_from is None else keys_from
    found = []
    for number in range(count):
        key = f"{start + number:09d}"
        found += [
            (f"{key}.png", picture(first + number)),
            (f"{key}.txt", f"caption {first + number:05d}".encode()),
        ]
    return found


def tar(members: list[tuple[str, bytes]], tar_format: int = tarfile.USTAR_FORMAT) -> bytes:
    """Its bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def write_shards(folder: Path, counts: list[int]) -> str:
    """Shards of so many samples each, numbered through; returns the wildcard that finds them."""
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    for shard, count in enumerate(counts):
        (folder / f"{shard:05d}.tar").write_bytes(tar(pairs(first, count)))
        first += count
    return f"{folder}/*.tar"


def open_shards(folder: Path, urls: str | None = None) -> WebDataset:
    """Its shards, or `urls`; the index is cached beside the folder."""
    config = WebDatasetConfig(urls=urls or f"{folder}/*.tar", name="test", index_cache=str(folder) + "-cache")
    return WebDataset(config)
