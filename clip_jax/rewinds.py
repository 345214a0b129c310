"""Where a run has gone back behind a loss spike: since then its step number alone no longer says which batch is next."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from clip_jax.writers import write_json

REWINDS = "rewinds.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rewind:
    """After step `step`, for `reason`, the run went back to the checkpoint at step `to`; batches that follow it were left
    out, `skipped` of them, so that the one after the spike is the next."""

    step: int
    to: int
    skipped: int
    reason: str


def read_rewinds(workdir: Path) -> list[Rewind]:
    """In the order in which they happened. Raises ValueError for a damaged file: without it the stream is not known."""
    file = workdir / REWINDS
    if not file.is_file():
        return []
    try:
        return [Rewind(**row) for row in json.loads(file.read_text())]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}); restore it, or use another workdir") from error


def write_rewinds(workdir: Path, rewinds: Sequence[Rewind]) -> None:
    """All of them, whole or as before."""
    write_json(workdir / REWINDS, [dataclasses.asdict(rewind) for rewind in rewinds])


def one_more(rewinds: Sequence[Rewind], step: int, to: int, reason: str) -> list[Rewind]:
    """All of them and that from `step` to the checkpoint at `to`, whose next batch is the one that followed `step`."""
    skipped = batch_of(rewinds, step) - batch_of(rewinds, to)
    return [*rewinds, Rewind(step=step, to=to, skipped=skipped, reason=reason)]


def batch_of(rewinds: Sequence[Rewind], step: int) -> int:
    """The number, in the stream, of the batch that follows `step` updates."""
    return step + sum(rewind.skipped for rewind in _in_force(rewinds) if rewind.to <= step)


def next_jump(rewinds: Sequence[Rewind], step: int) -> int | None:
    """The first step after `step` at which batches were left out; None where there is none."""
    return min((rewind.to for rewind in _in_force(rewinds) if rewind.to > step), default=None)


def _in_force(rewinds: Sequence[Rewind]) -> list[Rewind]:
    """Those whose place no later one went back behind: it undid them, and its own `skipped` counts their batches."""
    return [one for place, one in enumerate(rewinds) if all(later.to >= one.to for later in rewinds[place:])]
