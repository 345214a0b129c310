"""Two processes that each hold a part of the state, where one alone cannot read its part or write it: both do the same."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clip_jax import run_folder
from tests.cli.test_lost_processes import group

pytestmark = pytest.mark.slow
ZSTD = bytes.fromhex("28b52ffd")  # begins each frame
SETTINGS = ("--config.mesh.fsdp=2", "--config.mesh.fsdp_min_size=0", "--config.eval_every=0", "--config.evals={}")

# Trains; on process 1 alone the first save, complete as it is, seems to have failed.
FAILING = """
import sys
import orbax.checkpoint as ocp
from clip_jax.__main__ import main

really, waits = ocp.CheckpointManager.wait_until_finished, []

def wait(self):
    really(self)
    waits.append(self.latest_step())
    if waits[-1] == 4 and waits.count(4) == 1 and sys.argv[-1] == "1":
        raise OSError("no such disk")

ocp.CheckpointManager.wait_until_finished = wait
main()
"""


@contextlib.contextmanager
def two(workdir: Path, *more: str, **how: Any) -> Iterator[list[subprocess.Popen[str]]]:
    processes = group(workdir, 2, *SETTINGS, *more, **how)
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()


def outputs(processes: list[subprocess.Popen[str]]) -> list[str]:
    """What both said, once both are done; fails where they are not within some minutes."""
    said = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    return said


def without_its_largest_chunk(data: bytes) -> bytes:
    """Makes one chunk no zstd frame any more: a process's own part of the largest array, which no other process reads."""
    first, *frames = data.split(ZSTD)
    sizes = [len(frame) for frame in frames]
    largest = sizes.index(max(sizes))
    starts = [ZSTD if at != largest else bytes(len(ZSTD)) for at in range(len(frames))]
    return first + b"".join(start + frame for start, frame in zip(starts, frames, strict=True))


def test_a_part_damaged_for_one_is_passed_over_by_both(tmp_path: Path) -> None:
    with two(tmp_path) as processes:
        assert "finished at step 12" in outputs(processes)[0]
    metrics = (tmp_path / run_folder.METRICS).read_bytes()
    own = tmp_path / run_folder.CHECKPOINTS / "12" / "params" / "ocdbt.process_1" / "d"
    file = max(own.iterdir(), key=lambda file: file.stat().st_size)
    file.write_bytes(without_its_largest_chunk(file.read_bytes()))
    with two(tmp_path) as processes:
        said = outputs(processes)
    for output in said:
        assert output.count("checkpoint at step 12 is damaged and was passed over: process 1 of 2: ") == 1
    assert "going on from the checkpoint at step 8" in said[0]
    assert [step.name for step in (tmp_path / "damaged").iterdir()] == ["12"]
    assert (tmp_path / run_folder.METRICS).read_bytes() == metrics


def test_a_save_that_fails_for_one_is_said_by_both_and_both_go_on(tmp_path: Path) -> None:
    with two(tmp_path, command=("-c", FAILING, "train")) as processes:
        said = outputs(processes)
    assert said[0].count("a checkpoint could not be written (process 1 of 2: OSError: no such disk)") == 1
    assert "finished at step 12" in said[0]
    assert {step.name for step in (tmp_path / run_folder.CHECKPOINTS).glob("[0-9]*")} >= {"8", "12"}
