"""What a teacher store says of itself: manifest.json, as dataclasses checked key by key in both directions."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clip_jax.data.images import Augmentation, draw_view
from clip_jax.data.teacher_shards import DTYPES, FileInfo, shard_name
from clip_jax.data.views import View
from clip_jax.durable import write_durably
from clip_jax.typed import Reader

VERSION = 1
MANIFEST = "manifest.json"
UNFINISHED = "unfinished.json"  # stands in its place while shards are being written
INDEX = "index.safetensors"
SEAL = "blake2b"  # the last key: a checksum of all others


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherInfo:
    """The model that made the embeddings.

    name: as `clip_jax.load` takes it. weights_hash: hex, of its parameters. embed_dim: D. logit_scale: natural logarithm
    of the factor on cosines. logit_bias: added to logits, 0 where the model has none. model: its config as plain dicts.
    """

    name: str
    weights_hash: str
    embed_dim: int
    logit_scale: float
    logit_bias: float = 0.0
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.embed_dim < 1 or not (math.isfinite(self.logit_scale) and math.isfinite(self.logit_bias)):
            raise ValueError(
                f"teacher {self.name}: embed_dim {self.embed_dim}, logit_scale {self.logit_scale}, logit_bias "
                f"{self.logit_bias}; give a positive size and finite numbers"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceInfo:
    """The data set: the source's name, its distinct samples, and its config as plain dicts."""

    name: str
    samples: int
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredViews:
    """How a sample's stored views were made: `count` of them, by `augmentation`, from `seed`."""

    count: int
    seed: int
    augmentation: Augmentation = Augmentation()

    def __post_init__(self):
        if self.count < 1 or self.seed < 0:
            raise ValueError(
                f"stored views: count {self.count}, seed {self.seed}; give a count from 1 and a seed from 0"
            )

    def draw(self, uid: int, number: int, height: int, width: int) -> View:
        """View `number` of the sample `uid`, an image of that size in pixels: the same wherever and whenever drawn."""
        rng = np.random.default_rng((self.seed, uid, number))
        return draw_view(height, width, rng, self.augmentation)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that is to be known of a store. Two runs over the same data write the same manifest, byte by byte.

    tokenizer: hash of the teacher's, hex. preprocessing: the teacher's, for images without views. views: None where images
    were preprocessed without chance. captions: whether embeddings of all captions are there. rows_per_shard: samples in a
    shard's range, the unreadable ones counted. batch_size: images, and captions, that one device took at once, for another
    number moves results by a rounding; None where embeddings were imported, and in stores of before it was written down.
    shards, index: empty and None until the store is finished.
    """

    version: int = VERSION
    teacher: TeacherInfo
    tokenizer: str
    preprocessing: Mapping[str, Any]
    normalisation: str = "l2"
    dtype: str = "bfloat16"
    source: SourceInfo
    views: StoredViews | None = None
    captions: bool = False
    rows_per_shard: int
    batch_size: int | None = None
    shards: tuple[FileInfo, ...] = ()
    index: FileInfo | None = None

    def __post_init__(self):
        for name, allowed in (("version", (VERSION,)), ("normalisation", ("l2",)), ("dtype", tuple(DTYPES))):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"teacher store: {name} {getattr(self, name)!r}; this version of clip_jax reads "
                    f"{', '.join(map(repr, allowed))}"
                )
        if self.rows_per_shard < 1:
            raise ValueError(f"teacher store: rows_per_shard {self.rows_per_shard}; give a positive number")
        files = [(shard.file, shard_name(number)) for number, shard in enumerate(self.shards)]
        for found, wanted in (*files, *([(self.index.file, INDEX)] if self.index else [])):
            if found != wanted:
                raise ValueError(f"teacher store: {found} stands where {wanted} belongs; give all files in order")

    @property
    def image_views(self) -> int:
        """V, image embeddings a sample: the number of views, 1 without any."""
        return self.views.count if self.views else 1

    @property
    def rows(self) -> int:
        """Samples with embeddings."""
        return sum(shard.rows for shard in self.shards)

    @property
    def bad(self) -> int:
        """Samples that could not be read."""
        return sum(shard.bad for shard in self.shards)

    def to_json(self) -> str:
        """With keys in order and a line each; last, a checksum of all others."""
        return json.dumps(sealed(dataclasses.asdict(self)), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> "Manifest":
        """The same from JSON, in which no field may be missing; stores of before there were checksums have none of these.

        Raises ValueError that names `where` and the key, or says that it is not as it was written.
        """
        try:
            given = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{where} is not JSON ({error}); copy the store again") from error
        version = given.get("version") if isinstance(given, dict) else None
        if version != VERSION:
            raise ValueError(f"{where}: format version {version!r}; this version of clip_jax reads {VERSION}")
        seal = given.pop(SEAL, None)
        if seal is not None and seal != (found := sealed(given)[SEAL]):
            raise ValueError(
                f"{where} was changed or damaged: the checksum of its fields is {found}, it says {seal!r}; copy it again, or "
                "run clip-jax embed into another folder"
            )
        try:
            return Reader(whole=True).read(cls, {"batch_size": None} | given, where)
        except ValueError as error:
            raise ValueError(str(error) if str(error).startswith(where) else f"{where}: {error}") from error


def sealed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest's fields with their checksum: blake2b over them as JSON, 16 bytes in hex."""
    content = json.dumps(dict(fields), separators=(",", ":")).encode()
    return {**fields, SEAL: hashlib.blake2b(content, digest_size=16).hexdigest()}


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a finished store. Raises ValueError for a folder that is none, and FileNotFoundError for no folder."""
    folder = Path(folder).expanduser()
    path = folder / MANIFEST
    if path.is_file():
        return Manifest.from_json(path.read_bytes(), str(path))
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; clip-jax embed writes a teacher store there")
    shards = len(list(folder.glob("shard-*.safetensors")))
    if shards or (folder / UNFINISHED).exists():
        raise ValueError(
            f"{folder} holds {shards} shards and no {MANIFEST}: embedding was not finished; run the same clip-jax embed "
            f"command again with --store {folder}, which goes on from there"
        )
    raise ValueError(f"{folder} is no teacher store: it has no {MANIFEST}; clip-jax embed --store {folder} makes one")


def read_unfinished(folder: str | Path) -> Manifest | None:
    """What a run that has not finished wrote of its settings, None where there is no such run."""
    path = Path(folder).expanduser() / UNFINISHED
    return Manifest.from_json(path.read_bytes(), str(path)) if path.is_file() else None


def read_begun(folder: str | Path) -> Manifest | None:
    """The manifest that is there, else what a run that has not finished wrote, else None."""
    return read_manifest(folder) if (Path(folder).expanduser() / MANIFEST).is_file() else read_unfinished(folder)


def write_unfinished(folder: str | Path, manifest: Manifest) -> None:
    """Says which settings the shards in `folder` are being written with. `finish_store` takes it away."""
    path = Path(folder).expanduser() / UNFINISHED
    write_durably(path, [manifest.to_json().encode()])


def differences(ours: Manifest, theirs: Manifest) -> list[str]:
    """In what two stores differ, apart from their files, as "teacher.weights_hash: 'a' and 'b'"."""
    bare = [dataclasses.asdict(dataclasses.replace(each, shards=(), index=None)) for each in (ours, theirs)]
    return _differing(bare[0], bare[1])


def view_differences(ours: Manifest, theirs: Manifest) -> list[str]:
    """In what the views of two stores differ; none where both hold embeddings of the very same views of a sample."""
    both = [{"views": each.views and dataclasses.asdict(each.views)} for each in (ours, theirs)]
    return _differing(both[0], both[1])


def _differing(ours: Any, theirs: Any, where: str = "") -> list[str]:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        found = []
        for key in dict.fromkeys([*ours, *theirs]):
            inner = f"{where}.{key}" if where else key
            found += _differing(ours.get(key), theirs.get(key), inner)
        return found
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        ours, theirs = list(ours), list(theirs)  # a tuple is a list in JSON
    return [] if ours == theirs else [f"{where}: {_short(ours)} and {_short(theirs)}"]


def _short(value: Any) -> str:
    text = "none" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
