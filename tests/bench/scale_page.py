"""docs/scale.md out of docs/scale.json."""

from collections.abc import Mapping, Sequence
from typing import Any

_HEAD = """# Scale, as predicted

Whether published CLIP sizes fit pods of 16 to 6,144 chips at batches of 32,768 to 1,048,576, and how fast they would run:
what `clip-jax plan` finds by compiling the real training step ahead of time with the TPU compiler. **No step was run on these
chips.** Memory and collectives are the compiler's own program; times are predicted from it, as `clip_jax/plan/times.py` says:
the compiler's estimate of its cycles over the chip's clock, plus collectives that run beside no other work, at published
bandwidths. The bound takes products, memory and the busiest links as perfectly overlapped, at their published peaks.

Written by `make scale`, which goes on where it was stopped; all figures: [scale.json](scale.json).

Every row: bf16, blocks recomputed (`model.running.remat="block"`), the ring loss (`objective.form="ring"`), the batch of a
chip embedded in parts of so many pairs (`accumulate`), adamw. "Distilled" adds `crd` and `fd` against stored embeddings of
size 1,280.
"""

_CHOOSING = """## Choosing a mesh

`clip-jax plan --config C --topology T` says what a setting costs before anything is started. In this order:

* Nothing is short: `mesh.data=-1`, all devices, the default. It costs one sum of the gradients a step.
* Memory for activations: `model.running.remat="block"`, for another forward pass of the towers.
* The same, still: `accumulate`, the batch of a chip in so many parts with all negatives, for a forward pass that keeps nothing.
* Memory for the loss, at global batches beyond some 32,768: `objective.form="ring"` or `"chunked"`, which compute the
  similarities once more in the backward pass.
* Memory for parameters and moments: `mesh.fsdp` of 2 to 16, no more than it takes; blocks' weights are gathered in each pass.
* The same, for towers as wide as bigG's: `mesh.model` of 2 to 8 beside fsdp, the last resort: each block sums activations.
* Speed between slices, or islands of GPUs: `mesh.replica`, one a slice, so that only gradients and embeddings cross the
  slower network.
"""

_COLUMNS = (
    "chips",
    "batch",
    "pairs a chip",
    "part",
    "fsdp",
    "GB a chip",
    "of GB",
    "sent a chip, GB",
    "step, s",
    "pairs/s a chip",
    "efficiency",
    "MFU",
    "bound",
)


def page(rows: Sequence[tuple[str, Mapping[str, Any]]], found: Mapping[str, Any]) -> str:
    """rows: (name, fields of Row) of the whole grid. found: by name, what was compiled."""
    there = [(name, row) for name, row in rows if name in found]
    said = [_HEAD, _CHOOSING, f"## What was compiled\n\nCompiled: {len(there)} of {len(rows)} rows of the grid.\n"]
    if there:
        kinds = sorted({tuple(found[name]["versions"].items()) for name, _ in there})
        said.append("; ".join(", ".join(f"{what} {version}" for what, version in kind) for kind in kinds) + ".\n")
    for distilled, title in ((False, "## Pretraining"), (True, "## Distillation from a store")):
        chosen = [(name, row) for name, row in rows if row["distilled"] == distilled]
        said += [title, "", *_meaning(distilled), *_lines(chosen, found)]
    missing = [name for name, _ in rows if name not in found]
    if missing:
        said += ["## Not compiled yet", "", *(f"* {name}" for name in missing), ""]
    return "\n".join(said).rstrip() + "\n"


def _meaning(distilled: bool) -> list[str]:
    if distilled:
        return ["Efficiency: pairs/s a chip over those of pretraining the same model on the same pod.", ""]
    return [
        "Efficiency (weak scaling): pairs/s a chip over those of the smallest pod of the same model that was compiled, at the",
        "same pairs a chip. On 6,144 chips the batch a chip is smaller, so that the whole stays near 1M, and embedded at once,",
        "without the second forward pass that parts take: that is other work, and has no efficiency here.",
        "",
    ]


def _lines(rows: Sequence[tuple[str, Mapping[str, Any]]], found: Mapping[str, Any]) -> list[str]:
    said: list[str] = []
    for model in dict.fromkeys(row["model"] for _, row in rows):
        known = [found[name] for name, row in rows if row["model"] == model and name in found]
        if not known:
            continue
        known.sort(key=lambda one: one["row"]["chips"])
        said += [f"### {model}, {known[0]['row']['topology'].partition(':')[0]}", "", _cells(_COLUMNS)]
        said += [_cells("---" for _ in _COLUMNS)]
        first = next((one for one in known if one["times"]), None)
        said += [_cells(_row(one, _basis(one, first, found))) for one in known] + [""]
    return said


def _basis(
    one: Mapping[str, Any], first: Mapping[str, Any] | None, found: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """What its efficiency is over; None where the basis has other pairs a chip, or embeds them in another number of parts."""
    if not one["row"]["distilled"]:
        same = first and _parts(one) == _parts(first) and one["row"]["pairs"] == first["row"]["pairs"]
        return first if same else None
    same = {"distilled": False}
    return next((other for other in found.values() if other["row"] == one["row"] | same and other["times"]), None)


def _parts(one: Mapping[str, Any]) -> int:
    return one["row"]["pairs"] // one["row"]["part"]


def _row(one: Mapping[str, Any], basis: Mapping[str, Any] | None) -> list[str]:
    row, known = one["row"], one["times"]
    left = [f"{row['chips']:,}", f"{row['batch']:,}", f"{row['pairs']:,}", str(row["part"]), str(row["fsdp"])]
    left += [f"{one['total'] / 1e9:.1f}", f"{one['memory'] / 1e9:.1f}"]
    if not known:
        return [*left, "", "does not fit", "", "", "", ""]
    rate = rate_of(one)
    return [
        *left,
        f"{sum(each['sent'] for each in one['collectives']) / 1e9:.1f}",
        f"{known['step']:.2f}",
        f"{rate:,.0f}",
        "" if basis is None else "basis" if basis is one else f"{rate / rate_of(basis):.1%}",
        f"{known['mfu']:.1%}",
        f"{known['mfu_bound']:.1%}",
    ]


def rate_of(one: Mapping[str, Any]) -> float:
    """Pairs a second and chip."""
    return one["row"]["pairs"] / one["times"]["step"]


def _cells(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"
