"""clip-jax train, telling what it does at each moment and which samples it reads, for whoever is about to kill it.

Beside the run's own files: phase.N, what process N does; samples.N.jsonl, the uids of its share of each batch it read.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clip_jax import train as train_module
from clip_jax.__main__ import main
from clip_jax.checkpoint import Checkpoints


def _own(flag: str) -> str:
    arguments = sys.argv[1:]
    return arguments[arguments.index(flag) + 1] if flag in arguments else "0"


STEP = 0.03  # seconds that reading a batch takes at least, so that there is time to be killed in
WORKDIR, PROCESS = Path(_own("--workdir")), _own("--process")


_now = ["start"]


def say(phase: str) -> None:
    """A rename, so that a reader sees the old phase or the new one."""
    _now[0] = phase
    draft = WORKDIR / f".phase.{PROCESS}"
    draft.write_text(f"{os.getpid()} {phase}")
    draft.rename(WORKDIR / f"phase.{PROCESS}")


def during(phase: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def told(*args: Any, **more: Any) -> Any:
        before = _now[0]
        say(phase)
        try:
            return method(*args, **more)
        finally:
            say(before)

    return told


class Stream(train_module.TrainStream):
    """Writes down the number of each batch, and its samples on this process."""

    def __init__(self, *args: Any, start_step: int, process: int, processes: int, **more: Any):
        super().__init__(*args, start_step=start_step, process=process, processes=processes, **more)
        self._number, self._place = start_step, [process, processes]
        self._log = (WORKDIR / f"samples.{process}.jsonl").open("a")

    def __next__(self) -> Any:
        time.sleep(STEP)
        batch, bad = super().__next__()
        row = {"batch": self._number, "of": self._place, "uids": batch["uid"].tolist()}
        self._log.write(f"\n{json.dumps(row)}")  # a line that a kill has cut ends there
        self._log.flush()
        self._number += 1
        return batch, bad


def instrument() -> None:
    """Before main."""
    loop: Any = train_module._Loop
    report, run = loop._report, loop.run

    def reported(*args: Any, **more: Any) -> Any:
        result = report(*args, **more)
        say("steps")
        return result

    def compiles(*args: Any, **more: Any) -> Any:
        say("compilation")
        return run(*args, **more)

    loop._report, loop.run = reported, compiles
    loop._evaluate = during("evaluation", loop._evaluate)
    loop._save = during("checkpoint", loop._save)
    loop._finish_saving = during("checkpoint", loop._finish_saving)
    Checkpoints.restore = during("restore", Checkpoints.restore)
    train_module.TrainStream = Stream


if __name__ == "__main__":
    WORKDIR.mkdir(parents=True, exist_ok=True)
    say("start")
    instrument()
    main()
