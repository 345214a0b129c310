"""The folder of a run: what lies in it, and who may write there.

config.json        the experiment            checkpoints/       Orbax
metrics.jsonl      a row each log_every steps and each evaluation; the same bytes however often the run was interrupted
timing.jsonl       speed, loader wait, memory: true of the machine, not of the experiment (timing.N.jsonl by process N)
bad_samples.jsonl  each replaced sample: step, uid, shard, reason (bad_samples.N.jsonl by process N)
tokenizer.json     where it is not CLIP's
teachers.json      hashes of each teacher's weights and of its store's manifest: a run that goes on must find the same
data.json          the parts of the training samples, and a digest of each: a run that goes on must find the same
rewinds.json       where it went back behind a loss spike               starts.jsonl     when it was started, from which step
tensorboard/       event files               profile/           a profiler's trace, where config.profile asks for one
evaluation.json    the last evaluation       clip_benchmark/       the same as CLIP_benchmark writes it
pictures.npz, report.html, beside.html, evaluation.html
"""

import collections
import contextlib
import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from clip_jax.data.pipeline import Bad
from clip_jax.writers import JsonlWriter, TensorBoardWriter, WandbWriter, Writer

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
TEACHERS = "teachers.json"
DATA = "data.json"
CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
TIMING = "timing.jsonl"
STARTS = "starts.jsonl"
PROFILE = "profile"
EVALUATION = "evaluation.json"
PICTURES = "pictures.npz"
REPORT = "report.html"


def has_checkpoints(workdir: Path) -> bool:
    """Whether a run has saved anything there."""
    return any((workdir / CHECKPOINTS).glob("[0-9]*"))


def newest_step(workdir: Path) -> int:
    """The step of the newest checkpoint; 0 where there is none."""
    names = (folder.name for folder in (workdir / CHECKPOINTS).glob("[0-9]*"))
    return max((int(name) for name in names if name.isdecimal()), default=0)


def make_folder(workdir: Path) -> None:
    """Makes the folder. Raises ValueError for a URL, for a file, and where it cannot be written."""
    if "://" in str(workdir) or ":/" in str(workdir):
        raise ValueError(f"workdir {workdir} is a URL; a run's folder must be on a file system (mount the bucket)")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / ".lock").touch()
    except OSError as error:
        raise ValueError(f"workdir {workdir} cannot be written: {error.strerror or error}") from error


class Lock:
    """Keeps two runs out of one folder. Raises ValueError where another process holds it; freed when the process ends."""

    def __init__(self, workdir: Path):
        self._file = (workdir / ".lock").open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise ValueError(f"another run is writing to {workdir}; wait for it, or choose another workdir") from error

    def close(self) -> None:
        """Lets the next one in."""
        self._file.close()


class Records:
    """All that a run writes down while it trains, from step `start` on; only process 0 writes figures of the experiment.

    useful_seconds: as in clip_jax.clock, up to `start`.
    """

    def __init__(self, workdir: Path, start: int, *, wandb: str = ""):
        process = jax.process_index()
        self._first = process == 0
        name = "bad_samples.jsonl" if self._first else f"bad_samples.{process}.jsonl"
        self._bad = JsonlWriter(workdir / name, start)
        rows = map(json.loads, (workdir / name).read_text().splitlines())
        self._bad_shards = collections.Counter(row["shard"] for row in rows)
        self._metrics: list[Writer] = []
        self._timing: list[Writer] = []
        self.useful_seconds = 0.0
        if not self._first:
            self._timing = [JsonlWriter(workdir / f"timing.{process}.jsonl", start)]
        else:
            shared: list[Writer] = [TensorBoardWriter(workdir / "tensorboard", start)]
            if wandb:
                shared.append(WandbWriter(wandb, workdir))
            self._metrics = [JsonlWriter(workdir / METRICS, start), *shared]
            self._timing = [JsonlWriter(workdir / TIMING, start), *shared]
            self.useful_seconds = max((row.get("useful_seconds", 0.0) for row in _rows(workdir / TIMING)), default=0.0)

    def metrics(self, step: int, figures: Mapping[str, float]) -> None:
        """What is true of the experiment."""
        for writer in self._metrics:
            writer.write(step, figures)

    def timing(self, step: int, figures: Mapping[str, float]) -> None:
        """What is true of the machine."""
        for writer in self._timing:
            writer.write(step, figures)

    def bad(self, step: int, samples: Sequence[Bad]) -> None:
        """Samples that were replaced in the batch of step `step`."""
        for sample in samples:
            self._bad_shards[sample.shard] += 1
            row: dict[str, Any] = {"uid": f"{sample.uid:016x}", "shard": sample.shard, "reason": sample.reason}
            self._bad.write(step, row)

    def worst_shards(self) -> str:
        """The shards with the most replaced samples on this process, for an error message."""
        return (
            ", ".join(f"{shard} ({count})" for shard, count in self._bad_shards.most_common(5)) or "on other processes"
        )

    def close(self) -> None:
        """Flushes and closes all."""
        for writer in {id(w): w for w in (*self._metrics, *self._timing, self._bad)}.values():
            writer.close()


def first_began(workdir: Path, step: int, began: float) -> float:
    """When the run was first started, seconds as of time.time(); this start, at `began` from `step`, is noted by process 0."""
    if jax.process_index() > 0:
        return began
    with (workdir / STARTS).open("a") as file:
        file.write(json.dumps({"step": step, "time": began}) + "\n")
    return min(row["time"] for row in _rows(workdir / STARTS))


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """Those that are whole."""
    for line in file.read_text().splitlines():
        with contextlib.suppress(ValueError):
            yield json.loads(line)
