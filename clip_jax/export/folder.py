"""A folder of exports: written file by file, each measured at once; it has its name only when all are proven."""

import dataclasses
import importlib.metadata
import logging
import os
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clip_jax.drafts import check_destination, drafted
from clip_jax.export import measure
from clip_jax.export.card import card
from clip_jax.export.formats import FORMATS, Kind, check_installed
from clip_jax.export.graph import Tower, Wanted
from clip_jax.export.record import RECORD, Exported, Record
from clip_jax.export.samples import Samples, known
from clip_jax.interop.convert import origin_of
from clip_jax.interop.folder import TOKENIZER
from clip_jax.interop.layouts.huggingface_files import write_tokenizer
from clip_jax.interop.proof.gate import NotProven
from clip_jax.interop.recognize import Opened
from clip_jax.models.clip import CLIPConfig
from clip_jax.models.layers import Running
from clip_jax.plain import to_dict
from clip_jax.writers import write_json

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be exported. towers: of formats that hold them one by one. preprocess: pixels come as u8. batch: of every
    call, None for any where a format can, else 1."""

    kinds: Sequence[Kind]
    towers: Sequence[Tower] = ("image", "text")
    preprocess: bool = False
    batch: int | None = None

    def __post_init__(self):
        """Raises ValueError for what no file can be."""
        if self.preprocess and (self.batch or 1) > 1 and any(kind.format == "coreml" for kind in self.kinds):
            raise ValueError(
                f"Core ML takes one picture at a time, not {self.batch}: leave out preprocess, or the batch"
            )

    def files(self, config: CLIPConfig, params: Any, origin: dict[str, Any]) -> Iterator[tuple[Kind, Path, Wanted]]:
        """Each file's kind, its path within the folder, and what it holds."""
        for kind in self.kinds:
            format_ = FORMATS[kind.format]
            for tower in ("joint",) if format_.whole else self.towers:
                yield (
                    kind,
                    Path(str(kind)) / format_.name(tower),
                    Wanted(
                        config=config,
                        params=params,
                        tower=tower,
                        precision=kind.precision,
                        preprocess=self.preprocess,
                        batch=None if format_.whole else self.batch or (None if format_.flexible else 1),
                        origin=origin,
                    ),
                )


def export_model(source: Opened, destination: Path, order: Order) -> Record:
    """Writes DESTINATION/FORMAT-PRECISION/TOWER.*, the tokenizer, export.json with what was measured, and a README.md.

    Raises ModuleNotFoundError without what the formats need, ValueError where the folder is there already or a file would be
    larger than its format allows, NotProven where one is not the model: then all that was written is left in
    DESTINATION.unproven.
    """
    check_installed(kind.format for kind in order.kinds)
    check_destination(destination)
    _log.info("%s: %s", source.path, source.said)
    config = dataclasses.replace(source.config, dtype="float32", running=Running())
    origin, versions = origin_of(source), _versions(order.kinds)
    files = list(order.files(config, source.params, origin))
    for kind, path, wanted in files:
        FORMATS[kind.format].check_room(path, wanted)
    samples = known(config, source.params)
    with drafted(destination) as draft:
        write_tokenizer(draft, config.text_cfg)
        made: list[Exported] = []
        pairs: dict[str, dict[str, Any]] = {}
        began = time.perf_counter()
        for number, (kind, path, wanted) in enumerate(files):
            file, outputs = _one(draft, kind, path, wanted, samples)
            made.append(file)
            pairs.setdefault(str(kind), {}).update(outputs)
            spent = time.perf_counter() - began
            left = spent / (number + 1) * (len(files) - number - 1)
            _log.info(
                "%d of %d %s%s", number + 1, len(files), _line(file), f", about {left:.0f} s left" if left else ""
            )
        record = Record(
            source=f"{source.path.name}: {source.said}",
            model=_portable(config),
            origin=origin,
            samples=len(samples),
            files=tuple(made),
            overlaps={name: measure.overlap(outputs, samples) for name, outputs in pairs.items() if len(outputs) == 2},
            made_with=versions,
            machine=f"{os.cpu_count()} cores, {platform.machine()}",
        )
        write_json(draft / RECORD, to_dict(record))
        (draft / "README.md").write_text(card(destination.name, config, record))
    return record


def _one(draft: Path, kind: Kind, path: Path, wanted: Wanted, samples: Samples) -> tuple[Exported, dict[str, Any]]:
    file, format_ = draft / path, FORMATS[kind.format]
    began = time.perf_counter()
    graph = wanted.graph()
    try:
        file.parent.mkdir(exist_ok=True)
        format_.write(wanted, file)
    except OSError as error:
        raise ValueError(f"{file} cannot be written: {error.strerror or error}") from error
    except Exception as error:  # of a converter, which raises what it likes; files that are done must not be lost by it
        said = next(iter(str(error).splitlines()), "")
        raise NotProven(f"{path}: its converter gave up: {type(error).__name__}: {said}") from error
    seconds = time.perf_counter() - began
    try:
        measured, outputs = measure.measure(format_.open_file(file, wanted), wanted, graph, samples)
    except NotProven as error:
        raise NotProven(f"{path}: {error}") from error
    return Exported(
        path=path.as_posix(),
        format=kind.format,
        precision=kind.precision,
        tower=wanted.tower,
        preprocess=wanted.preprocess,
        batch=wanted.batch,
        bytes=sum(one.stat().st_size for one in ([file] if file.is_file() else file.rglob("*")) if one.is_file()),
        parameters=graph.parameters,
        seconds=seconds,
        **dataclasses.asdict(measured),
    ), outputs


def _portable(config: CLIPConfig) -> CLIPConfig:
    """With the tokenizer that lies in the folder itself."""
    text = config.text_cfg
    return (
        dataclasses.replace(config, text_cfg=dataclasses.replace(text, tokenizer=TOKENIZER))
        if text.tokenizer
        else config
    )


def _line(file: Exported) -> str:
    speed = "" if file.p50 is None else f", {file.p50:.1f} ms"
    return f"{file.path}: {file.bytes / 1e6:.1f} MB{speed}, embeddings within {file.largest:.1g}, top 20 {file.overlap:.1%} ours"


def _versions(kinds: Sequence[Kind]) -> dict[str, str]:
    packages = importlib.metadata.packages_distributions()
    modules = sorted({"jax"} | {module for kind in kinds for module in FORMATS[kind.format].needs})
    named = {packages[module][0] for module in modules if module in packages}
    return {package: importlib.metadata.version(package) for package in sorted(named)}
