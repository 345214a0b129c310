"""Processes that read one shard of tars between them, one of them from a slow disk: all wait, and train as one would."""

import json
from pathlib import Path

import pytest

from clip_jax import run_folder
from tests.chaos.evidence import compared, samples
from tests.cli.slow_disk import STILL
from tests.cli.test_lost_processes import group
from tests.cli.test_runs import finish, start
from tests.data.tars import write_shards

pytestmark = pytest.mark.slow
STEPS = 12
COMMAND = ("-m", "tests.cli.slow_disk", "train")
CONFIG = "tests/cli/tars_config.py:"  # and the tars


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One shard, whose samples neither the batch nor the processes divide."""
    return write_shards(tmp_path_factory.mktemp("tars") / "data", [37])


@pytest.fixture(scope="module")
def alone(urls: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run by one process with a quick disk."""
    folder = tmp_path_factory.mktemp("runs") / "alone"
    finish(start(folder, config=CONFIG + urls, command=COMMAND))
    return folder


def test_all_wait_for_the_slow_one_and_nobody_is_taken_for_lost(
    urls: str, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLOW", "0")
    outputs = [finish(process) for process in group(tmp_path, 2, config=CONFIG + urls, command=COMMAND)]
    assert f"finished at step {STEPS} of {STEPS}" in outputs[0]
    assert not any("lost" in output for output in outputs)
    ours, theirs = (samples(folder) for folder in (tmp_path, alone))
    assert [ours[batch] for batch in range(STEPS)] == [theirs[batch] for batch in range(STEPS)]
    assert compared(tmp_path, alone, STEPS)["loss_difference"] < 1e-5
    timing = [json.loads(line) for line in (tmp_path / run_folder.TIMING).read_text().splitlines()]
    assert max(row["loader_wait"] for row in timing) > 0.2
    # A part of the standstill passes while batches made ahead are trained on.
    assert max(row["step_p99"] for row in timing) > STILL / 4
