"""What `clip-jax plan` says of published sizes on 16 to 6,144 chips: `make scale` writes docs/scale.json and docs/scale.md.

Each row compiles one training step for a pod that is not there: one to sixteen minutes of a core. It goes on where it was
stopped, compiles rows of other versions of JAX or its compiler again, and forgets rows that the grid no longer has. --only
TEXT: rows whose name holds it. --most N: no more than N rows. --page: only the page, from what is there.
"""

import argparse
import dataclasses
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from clip_jax.experiment import TrainConfig
from clip_jax.models.layers import Running
from clip_jax.models.presets import preset
from clip_jax.objectives import ObjectiveConfig
from clip_jax.plan.child import compiled_for
from clip_jax.plan.chips import parse_pod
from clip_jax.plan.collectives import by_kind_and_axes
from clip_jax.plan.fit import memory_of
from clip_jax.plan.times import times
from clip_jax.sharding import MeshConfig
from clip_jax.teachers import Offer, StoreTeacher
from tests.bench.scale_page import page

RESULTS, PAGE = Path("docs/scale.json"), Path("docs/scale.md")
TEACHER = Offer(embed_dim=1280)  # ViT-bigG-14's embeddings, stored


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """pairs: a chip. part: how many of them are embedded at a time. distilled: crd and fd against a store, beside info_nce."""

    model: str
    topology: str
    pairs: int
    part: int
    fsdp: int
    distilled: bool = False

    @property
    def batch(self) -> int:
        """Pairs a step."""
        return self.pairs * parse_pod(self.topology).size

    @property
    def name(self) -> str:
        """By which docs/scale.json knows it: everything that the program depends on."""
        task = "distilled" if self.distilled else "pretrained"
        return f"{self.model} {task} {self.topology} batch {self.batch} part {self.part} fsdp {self.fsdp}"

    def config(self) -> TrainConfig:
        """bf16, blocks recomputed, the ring loss, adamw without an average."""
        weights = {"info_nce": 1.0} | ({"crd": 1.0, "fd": 1.0} if self.distilled else {})
        return TrainConfig(
            model=dataclasses.replace(preset(self.model), dtype="bfloat16", running=Running(remat="block")),
            batch_size=self.batch,
            accumulate=self.pairs // self.part,
            objective=ObjectiveConfig(weights=weights, form="ring"),
            teachers={"teacher": StoreTeacher(path="stored")} if self.distilled else {},
            mesh=MeshConfig(fsdp=self.fsdp),
        )


# model, (topology, pairs a chip) of each row, the largest part, fsdp. A line is one model at one batch a chip on growing pods;
# the last v5p row is the largest slice at about the same batch as the one before: so few pairs a chip are embedded at once.
# Large parts need more memory and send less, for fsdp gathers weights in each: L-14's would need 17.8 GB of 17.2 at 256.
_V5E = (("v5e:4x4", 2048), ("v5e:8x8", 2048), ("v5e:16x16", 2048))
_V5P = (("v5p:4x4x4", 512), ("v5p:8x8x8", 512), ("v5p:8x16x16", 512), ("v5p:16x16x24", 160))
_LINES = (
    ("ViT-B-32", _V5E, 512, 1),
    ("ViT-B-16", _V5E, 256, 1),
    ("ViT-L-14", _V5E, 128, 4),
    ("ViT-H-14", _V5P, 256, 8),
    ("ViT-g-14", _V5P, 256, 8),
    ("ViT-bigG-14", _V5P, 256, 16),
)


def rows() -> list[Row]:
    """The grid, in the order it is worked through: both ends of each line first, then distillation, then what is between."""
    lines = [
        [
            Row(model=model, topology=topology, pairs=pairs, part=min(part, pairs), fsdp=fsdp)
            for topology, pairs in places
        ]
        for model, places, part, fsdp in _LINES
    ]
    ends = [row for line in lines for row in (line[0], line[2])]
    taught = [dataclasses.replace(line[2], distilled=True) for line in lines]
    between = [row for line in lines for row in (line[1], *line[3:])]
    return ends + taught + between


def measured(row: Row, console: Console) -> dict[str, Any]:
    """Everything that the page says of a row, by compiling it."""
    pod, config = parse_pod(row.topology), row.config()
    with console.status("") as status:
        compiled = compiled_for(
            config,
            {"teacher": TEACHER} if row.distilled else {},
            pod,
            lambda seconds: status.update(f"{row.name} ... {seconds:,.0f} s"),
        )
    found = dataclasses.asdict(compiled)
    del found["collectives"]
    sent = [
        {"kind": kind, "axes": axes, "sent": sent, "operations": number}
        for kind, axes, sent, number in by_kind_and_axes(compiled.collectives)
    ]
    return {
        "row": dataclasses.asdict(row) | {"batch": row.batch, "chips": pod.size},
        "fits": not compiled.needed and compiled.total <= memory_of(pod, compiled.devices),
        "total": compiled.total,
        "memory": memory_of(pod, compiled.devices),
        "compiled": found,
        "collectives": sent,
        "times": None if compiled.needed else dataclasses.asdict(times(compiled, config, pod)),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of what compiles."""
    return {"jax": jax.__version__, "libtpu": metadata.version("libtpu")}


def main() -> None:
    """A row as soon as it is known; the page after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--most", type=int, default=10**6)
    parser.add_argument("--page", action="store_true")
    given, console = parser.parse_args(), Console(soft_wrap=True)
    names = {row.name for row in rows()}
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    todo = [] if given.page else [row for row in rows() if given.only in row.name]
    left = [row for row in todo if row.name not in found or found[row.name]["versions"] != versions()]
    for row in left[: given.most]:
        found[row.name] = measured(row, console)
        known = found[row.name]
        verdict = "fits" if known["fits"] else "does not fit"
        console.print(f"{row.name}: {known['total'] / 1e9:.1f} GB, {verdict}, {known['compiled']['seconds']:.0f} s")
        _write({name: known for name, known in found.items() if name in names})
    if not left:
        _write_page(found)


def _write(found: Mapping[str, Any]) -> None:
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    _write_page(found)


def _write_page(found: Mapping[str, Any]) -> None:
    PAGE.write_text(page([(row.name, dataclasses.asdict(row)) for row in rows()], found))


if __name__ == "__main__":
    main()
