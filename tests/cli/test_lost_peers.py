"""Evaluating and embedding on several processes of which one is killed: the others say which, and end."""

import signal
import subprocess
import time
from pathlib import Path

import pytest

from clip_jax.peers import LOST
from tests.cli.test_embed import CONFIG
from tests.cli.test_lost_processes import free_address
from tests.cli.test_runs import finish, run, start
from tests.small_teacher import write_teacher

pytestmark = pytest.mark.slow

# Runs a command; process VICTIM, named by the last argument, is killed where it calls the function.
DYING = """
import os, signal, sys
from clip_jax{module} import {holder} as holder
really = holder.{function}
def dying(*given):
    if sys.argv[-1] == "{victim}":
        print("killed", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return really(*given)
holder.{function} = dying
from clip_jax.__main__ import main
main()
"""


def pair(victim: int, place: dict[str, str], arguments: list[str]) -> list[subprocess.Popen[str]]:
    address, script = free_address(), DYING.format(victim=victim, **place)
    common = ("-c", script, *arguments, "--distributed", address, "--processes", "2", "--process")
    return [run(*common, str(number)) for number in range(2)]


def assert_the_other_says_so(processes: list[subprocess.Popen[str]], victim: int, advice: str) -> None:
    lost, other = processes[victim], processes[1 - victim]
    assert lost.communicate(timeout=300)[0].endswith("killed\n")
    assert lost.returncode == -signal.SIGKILL
    killed = time.monotonic()
    output = other.communicate(timeout=100)[0]
    assert other.returncode == LOST, output
    assert output.strip().splitlines()[-1] == f"process {victim} of 2 was lost; start the same command again{advice}"
    assert time.monotonic() - killed < 60


@pytest.mark.parametrize("victim", [0, 1])
def test_embedding(victim: int, tmp_path: Path) -> None:
    write_teacher(tmp_path / "teacher")
    (tmp_path / "data.py").write_text(CONFIG)
    given = [
        "--model",
        str(tmp_path / "teacher"),
        "--data",
        f"{tmp_path / 'data.py'}:40",
        "--store",
        str(tmp_path / "s"),
    ]
    place = {"module": ".store_writing", "holder": "StoreWriting", "function": "finish"}
    processes = pair(victim, place, ["embed", *given, "--views=0", "--rows_per_shard=8", "--batch_size=8"])
    assert_the_other_says_so(processes, victim, ", it keeps the shards that are written")


def test_evaluating(tmp_path: Path) -> None:
    finish(start(tmp_path, "--config.steps=2"))
    place = {"module": ".cli", "holder": "evaluate", "function": "measure_speed"}
    assert_the_other_says_so(pair(1, place, ["evaluate", str(tmp_path)]), 1, "")
    assert not (tmp_path / "evaluation.json").exists()
