"""The data of the distillation bench, decoded once: small tars of a train, a dev and a val split."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from clip_jax.data.glyphs import GlyphsConfig
from clip_jax.data.images import decode, resampling
from clip_jax.data.source import BadSample, Sample, Source
from clip_jax.data.sources import open_source
from clip_jax.data.webdataset import WebDatasetConfig
from clip_jax.writers import write_json

PAIRS = Path("../shared/data/pairs")
_SIDE = 48  # the shorter side in pixels: a crop of half the area still has a tower's 32
_DEV = 0.1  # of the train samples, those with the largest uids


def name_of_data() -> str:
    """ "pairs" where that folder is there, else "glyphs"."""
    return "pairs" if any(PAIRS.glob("train-*.tar")) else "glyphs"


def make_data(folder: Path) -> dict[str, int]:
    """Writes train.tar, dev.tar and val.tar, unless they are there; the samples in each.

    dev: a tenth of the train samples, by uid; neither teacher nor student trains on them, and weights are chosen on them.
    """
    counts, done = {}, folder / "data.json"
    if not done.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        train, val = _sources()
        order = np.argsort([train.uid(index) for index in range(len(train))], kind="stable")
        kept = len(train) - round(_DEV * len(train))
        splits = {"train": (train, order[:kept]), "dev": (train, order[kept:]), "val": (val, np.arange(len(val)))}
        for name, (source, indices) in splits.items():
            counts[name] = _write(folder / f"{name}.tar", source, np.sort(indices).tolist())
        write_json(done, counts)
    return {name: len(open_source(split(folder, name))) for name in ("train", "dev", "val")}


def split(folder: Path, name: str) -> WebDatasetConfig:
    """The source of one of the three."""
    return WebDatasetConfig(urls=str(folder / f"{name}.tar"), name=f"bench-{name}", index_cache=str(folder / "index"))


def _sources() -> tuple[Source, Source]:
    if name_of_data() == "pairs":
        parts = {part: WebDatasetConfig(urls=str(PAIRS / f"{part}-*.tar"), name=part) for part in ("train", "val")}
        return open_source(parts["train"]), open_source(parts["val"])
    return open_source(GlyphsConfig(size=_SIDE, variants=1)), open_source(GlyphsConfig(size=_SIDE, split="validation"))


def _write(path: Path, source: Source, indices: Iterable[int]) -> int:
    count = 0
    with tarfile.open(path, "w") as tar:
        for index in indices:
            try:
                sample = source[index]
                image = _small(sample)
            except BadSample:
                continue
            for extension, data in (("bmp", image), ("txt", sample.captions[0].encode())):
                member = tarfile.TarInfo(f"{index:06d}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            count += 1
    return count


def _small(sample: Sample) -> bytes:
    """As a BMP, which costs next to nothing to read."""
    pixels = decode(sample.image) if isinstance(sample.image, bytes) else sample.image
    image = Image.fromarray(pixels)
    factor = _SIDE / min(image.size)
    if factor < 1:
        image = image.resize([round(factor * side) for side in image.size], resampling("bicubic"))
    file = io.BytesIO()
    image.save(file, "BMP")
    return file.getvalue()
