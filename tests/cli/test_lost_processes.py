"""Several processes of which one is killed, fails or is told to stop: nobody hangs, and the next start goes on."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from clip_jax.peers import LOST
from tests.cli.test_runs import METRICS, ROOT, finish, start, wait_for_lines

pytestmark = pytest.mark.slow


def free_address() -> str:
    """Where process 0 can listen."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def group(workdir: Path, number: int, *more: str, own: dict[int, tuple[str, ...]] | None = None, **how: Any) -> list:
    """The processes, without a launcher. own: further arguments of one of them. how: of `start`."""
    address = free_address()
    return [
        start(
            workdir,
            *(*more, *(own or {}).get(process, ())),
            *("--distributed", address, "--processes", str(number), "--process", str(process)),
            **how,
        )
        for process in range(number)
    ]


@pytest.mark.parametrize(("number", "victim"), [(2, 0), (2, 1), (4, 0), (4, 2)])
def test_a_lost_process_ends_the_others_within_a_minute_and_is_named(tmp_path: Path, number: int, victim: int) -> None:
    processes = group(tmp_path, number, "--config.steps=2000")
    wait_for_lines(processes[0], tmp_path, 6)
    processes[victim].kill()
    killed = time.monotonic()
    for number_of, process in enumerate(processes):
        output = process.communicate(timeout=100)[0]
        if number_of != victim:
            assert process.returncode == LOST, output
            last = output.strip().splitlines()[-1]
            assert last.startswith(
                f"process {victim} of {number} was lost; start the same command again, it goes on from step"
            )
    assert time.monotonic() - killed < 60


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_stands_still_is_lost_too(tmp_path: Path, victim: int) -> None:
    processes = group(tmp_path, 2, "--config.steps=2000")
    wait_for_lines(processes[0], tmp_path, 6)
    processes[victim].send_signal(signal.SIGSTOP)  # its connections stay open, as when a host loses its network
    try:
        output = processes[1 - victim].communicate(timeout=60)[0]
    finally:
        processes[victim].kill()
        processes[victim].communicate()
    assert processes[1 - victim].returncode == LOST, output
    assert f"\nprocess {victim} of 2 was lost; start the same command again" in output


def test_a_process_that_never_comes_is_waited_for_so_long_and_no_longer(tmp_path: Path) -> None:
    [first, absent] = group(tmp_path, 2, "--join_seconds=15", own={1: ("--no_such_flag",)})
    absent.communicate(timeout=100)
    output = first.communicate(timeout=100)[0]
    assert first.returncode == LOST, output
    assert output.strip().splitlines()[-1].startswith("process 0 of 2 waited 15 s for the others, and not all came")


def test_a_process_that_fails_by_itself_is_named_with_its_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    processes = group(tmp_path / "run", 2, own={1: ("--workdir", str(tmp_path / "file"))})
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    assert processes[1].returncode == 2, outputs[1]
    assert processes[0].returncode == LOST, outputs[0]
    assert "process 1 of 2 failed (ValueError: " in outputs[0].strip().splitlines()[-1]


@pytest.mark.parametrize("number", [2, 4])
def test_sigterm_to_any_one_saves_on_all_and_exits_0(tmp_path: Path, number: int) -> None:
    processes = group(tmp_path, number, "--config.steps=2000")
    wait_for_lines(processes[0], tmp_path, 3)
    processes[-1].send_signal(signal.SIGTERM)
    outputs = [finish(process) for process in processes]
    assert "stopped, saved" in outputs[0]
    saved = max(int(step.name) for step in (tmp_path / "checkpoints").glob("[0-9]*"))
    assert f"at step {saved}" in outputs[0]


def test_the_launcher_starts_again_and_the_run_ends_bit_for_bit(tmp_path: Path) -> None:
    launcher = ("launch/local.py", "--processes", "2", "--")
    finish(start(tmp_path / "whole", command=launcher))
    process = start(tmp_path / "killed", command=launcher)
    wait_for_lines(process, tmp_path / "killed", 6)
    victim = _children(process.pid)[1]
    os.kill(victim, signal.SIGKILL)
    output = finish(process)
    assert "ended by SIGKILL" in output
    assert "[launch] exit code 137; starting again from step" in output
    assert (tmp_path / "killed" / METRICS).read_bytes() == (tmp_path / "whole" / METRICS).read_bytes()


def test_the_launcher_gives_up_without_progress(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").mkdir()  # an error that comes again with each start
    done = subprocess.run(
        [
            *(sys.executable, "launch/local.py", "--processes", "1", "--restarts", "1", "--", "--config"),
            *("tests/small_config.py", "--workdir", str(tmp_path / "run")),
        ],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert done.stdout.count("starting again") == 1
    assert "given up after 1 restarts without a checkpoint after step 0" in done.stdout


def _children(parent: int) -> list[int]:
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(child) for child in found]
