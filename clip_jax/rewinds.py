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


def batch_of(rewinds: Sequence[Rewind], step: int) -> int:
    """The number, in the stream, of the batch that follows `step` updates."""
    return step + sum(rewind.skipped for rewind in rewinds if rewind.to <= step)


def next_jump(rewinds: Sequence[Rewind], step: int) -> int | None:
    """The first step after `step` at which batches were left out; None where there is none."""
    return min((rewind.to for rewind in rewinds if rewind.to > step), default=None)
