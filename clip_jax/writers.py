"""Where a run's figures go: metrics.jsonl, TensorBoard, W&B, and the progress line on the terminal."""

import importlib
import json
import logging
import math
import socket
import struct
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from clip_jax.durable import write_durably

_log = logging.getLogger(__name__)


class Writer(Protocol):
    """Takes the figures of a step."""

    def write(self, step: int, figures: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def write_json(path: Path, content: Any) -> None:
    """`content` as indented JSON: the whole file or the one before it."""
    write_durably(path, [(json.dumps(content, indent=2) + "\n").encode()])


class Appended:
    """A file to add to, unbuffered. A disk without room is said once: what comes waits in memory, and goes in order later."""

    def __init__(self, path: Path):
        self._path, self._waiting, self._said = path, b"", False
        self._file = path.open("ab", buffering=0)

    def add(self, content: bytes) -> None:
        """After all before it."""
        self._waiting += content
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            if not self._said:
                _log.warning("%s: %s; what belongs there waits for room", self._path, error.strerror)
            self._said = True

    def close(self) -> None:
        """Closes the file."""
        self.add(b"")
        if self._waiting:
            _log.warning("%s lacks its last %d bytes", self._path, len(self._waiting))
        self._file.close()


class JsonlWriter:
    """One JSON object a line, written line by line. On opening, lines after `step` are cut off: a resumed run writes them
    again, and the file is that of a run without interruption."""

    def __init__(self, path: Path, step: int):
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        write_durably(path, [line + b"\n" for line in kept])
        self._file = Appended(path)

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """Appends {"step": step, **figures}; non-finite figures as null, since JSON has no others."""
        row = {key: _finite(value) for key, value in figures.items()}
        self._file.add((json.dumps({"step": step, **row}) + "\n").encode())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _step_of(line: bytes) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf


class TensorBoardWriter:
    """Event files that `tensorboard --logdir` reads; a resumed run hides what it writes again."""

    def __init__(self, folder: Path, step: int):
        # Not tensorboardX's own writer: its thread ends at the first error, and whoever writes next waits for it for ever.
        from tensorboardX import summary
        from tensorboardX.proto import event_pb2
        from tensorboardX.record_writer import masked_crc32c

        messages: Any = event_pb2  # has its classes only once it runs

        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{uuid.uuid4().hex[:8]}"
        self._event, self._scalar, self._checksum = messages.Event, summary.scalar, masked_crc32c
        self._file = Appended(folder / name)
        self._add(file_version="brain.Event:2")
        if step:
            self._add(step=step + 1, session_log=messages.SessionLog(status=messages.SessionLog.START))

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """One scalar a figure."""
        for name, value in figures.items():
            self._add(step=step, summary=self._scalar(name, value))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _add(self, **fields: Any) -> None:
        """One TFRecord: length, content, and a checksum of each."""
        content = self._event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(content))
        sums = [struct.pack("<I", self._checksum(part)) for part in (length, content)]
        self._file.add(length + sums[0] + content + sums[1])


class WandbWriter:
    """Weights & Biases; needs `pip install clip_jax[wandb]`. The run's id lies in its folder, so that a resumed run goes on."""

    def __init__(self, project: str, workdir: Path):
        try:
            wandb = importlib.import_module("wandb")  # an optional extra
        except ImportError as error:
            raise ValueError(
                "wandb is not installed; `pip install clip_jax[wandb]`, or leave config.wandb empty"
            ) from error
        file = workdir / "wandb_id"
        if not file.exists():
            file.write_text(uuid.uuid4().hex)
        self._run = wandb.init(
            project=project, id=file.read_text(), name=workdir.name, resume="allow", dir=str(workdir)
        )

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """One row."""
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


class MovingLine:
    """A line that says how far a command is. On a terminal it is redrawn, in a log file it is printed every `every` seconds;
    silent says nothing at all."""

    def __init__(self, *, silent: bool = False, every: float = 20.0, console: Console | None = None):
        self._every = every
        self._console = console or Console(stderr=True, quiet=silent)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._printed = -math.inf
        if self._live:
            self._live.start()

    def show(self, line: str, *, last: bool = False) -> None:
        """In place of the line before; the last one is printed in any case."""
        if self._live:
            self._live.update(Text(line), refresh=True)
        elif time.monotonic() - self._printed >= self._every or last:
            self._printed = time.monotonic()
            self.say(line)

    def say(self, text: str) -> None:
        """A line of its own, above the one that moves."""
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._live:
            self._live.stop()


class Progress(MovingLine):
    """Of a training: step, loss, pairs/s, loader wait, ETA."""

    def __init__(
        self,
        total: int,
        start: int,
        pairs_per_step: int,
        *,
        silent: bool = False,
        every: float = 20.0,
        console: Console | None = None,
    ):
        super().__init__(silent=silent, every=every, console=console)
        self._total, self._pairs = total, pairs_per_step
        self.say(f"training steps {start + 1:,} to {total:,}; the first one may compile")

    def update(self, step: int, loss: float, pairs_per_second: float, wait_share: float) -> None:
        """After step `step`; wait_share: of the time that was spent waiting for the loader, in [0, 1]."""
        eta = clock((self._total - step) * self._pairs / pairs_per_second) if pairs_per_second else "--:--"
        line = (
            f"{bar(step, self._total)} step {step:,}/{self._total:,}  loss {loss:.3f}  {pairs_per_second:,.0f} pairs/s  "
            f"loader wait {wait_share:.0%}  ETA {eta}"
        )
        self.show(line, last=step == self._total)


def bar(done: int, total: int) -> str:
    """Twenty characters, as many of them heavy as the work that is done has a share."""
    heavy = round(20 * done / max(total, 1))
    return "━" * heavy + "╌" * (20 - heavy)


def clock(seconds: float) -> str:
    """75 -> "1:15"; 3675 -> "1:01:15"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
