"""Processes that read one shard of tars between them, one of them from a slow disk: all wait, and train as one would."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from clip_jax import run_folder
from tests.chaos.evidence import compared, samples
from tests.cli.slow_disk import STILL
from tests.cli.test_runs import ROOT, finish
from tests.data.tars import write_shards

pytestmark = pytest.mark.slow
STEPS = 12


def start(workdir: Path, urls: str, number: int, *, slow: int | None = None) -> list[subprocess.Popen[str]]:
    """The processes, without a launcher."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "tests.cli.slow_disk", "train", "--workdir", str(workdir)]
    command += ["--config", f"tests/cli/tars_config.py:{urls}"]
    if number > 1:
        command += ["--distributed", address, "--processes", str(number)]
    return [
        subprocess.Popen(
            [*command, *(("--process", str(process)) if number > 1 else ())],
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "SLOW": str(slow)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(number)
    ]


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One shard, whose samples neither the batch nor the processes divide."""
    return write_shards(tmp_path_factory.mktemp("tars") / "data", [37])


@pytest.fixture(scope="module")
def alone(urls: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run by one process with a quick disk."""
    folder = tmp_path_factory.mktemp("runs") / "alone"
    finish(start(folder, urls, 1)[0])
    return folder


def test_all_wait_for_the_slow_one_and_nobody_is_taken_for_lost(urls: str, alone: Path, tmp_path: Path) -> None:
    outputs = [finish(process) for process in start(tmp_path, urls, 2, slow=0)]
    assert f"finished at step {STEPS} of {STEPS}" in outputs[0]
    assert not any("lost" in output for output in outputs)
    ours, theirs = (samples(folder) for folder in (tmp_path, alone))
    assert [ours[batch] for batch in range(STEPS)] == [theirs[batch] for batch in range(STEPS)]
    assert compared(tmp_path, alone, STEPS)["loss_difference"] < 1e-5
    timing = [json.loads(line) for line in (tmp_path / run_folder.TIMING).read_text().splitlines()]
    assert max(row["loader_wait"] for row in timing) > 0.2
    # A part of the standstill passes while batches made ahead are trained on.
    assert max(row["step_p99"] for row in timing) > STILL / 4
