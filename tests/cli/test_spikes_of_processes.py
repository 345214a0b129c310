"""Loss spikes on several processes: all leave out the same step or go back together, and train as one process does."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_jax import run_folder
from clip_jax.rewinds import batch_of, read_rewinds
from tests.cli.test_lost_processes import group
from tests.cli.test_runs import finish
from tests.test_recovery import rows

pytestmark = pytest.mark.slow

# Trains with batch 10 of the stream as a spike, looked for from the fifth step on.
SPIKED = """
import pytest
from clip_jax import recovery
from clip_jax.__main__ import main
from tests.test_recovery import Batches

patch = pytest.MonkeyPatch()
patch.setattr(recovery, "WINDOW", 8)
Batches(patch).bad = {10}
main()
"""


def trained(workdir: Path, processes: int, policy: str) -> None:
    settings = ("--config.steps=20", "--config.eval_every=0", "--config.checkpoint.keep=9")
    command = ("-c", SPIKED, "train")
    for process in group(workdir, processes, *settings, f"--config.recovery.spike={policy}", command=command):
        finish(process)


def steps(workdir: Path) -> list[dict[str, Any]]:
    return [row for row in rows(workdir) if "loss" in row]


@pytest.mark.parametrize("policy", ["skip", "rewind"])
def test_two_processes_do_about_a_spike_what_one_does(policy: str, tmp_path: Path) -> None:
    folders = {number: tmp_path / str(number) for number in (1, 2)}
    for number, folder in folders.items():
        trained(folder, number, policy)
    for newer in (12, 16, 20):
        shutil.rmtree(folders[2] / run_folder.CHECKPOINTS / str(newer))
    before = steps(folders[2])
    trained(folders[2], 1, policy)  # begun by two, gone on with by one, behind the spike
    one = steps(folders[1])
    for found in (before, steps(folders[2])):
        np.testing.assert_allclose([row["loss"] for row in found], [row["loss"] for row in one], rtol=1e-6)
        assert [(row["step"], row["skipped"]) for row in found] == [(row["step"], row["skipped"]) for row in one]
    rewinds = [read_rewinds(folder) for folder in folders.values()]
    if policy == "skip":
        assert [row["step"] for row in before if row["loss_spike"]] == [11]
        assert rewinds == [[], []]
    else:
        assert [[(back.step, back.to, back.skipped) for back in of] for of in rewinds] == [[(11, 8, 3)]] * 2
        assert batch_of(rewinds[1], 20) == 23
