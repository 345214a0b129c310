"""launch/slurm.sbatch on a real Slurm of one node: two tasks train, are preempted, told to stop and killed, and go on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.launch import slurm_cluster

ROOT = Path(__file__).parents[2]
STEPS = 40
SMALL = [
    f"--config.{field}"
    for field in (f"steps={STEPS}", "eval_every=0", "evals={}", "checkpoint.every=5", "read.workers=1")
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if lacks := slurm_cluster.missing():
        pytest.skip(f"this machine has no {lacks}: apt-get install slurm-wlm munge")
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHON": sys.executable}


class Job:
    """One submission of the script."""

    def __init__(self, slurm: dict[str, str], folder: Path, *arguments: str):
        self._slurm, self.log, self.workdir = slurm, folder / "job.log", folder / "a run"
        flags = ["--parsable", "--ntasks=2", f"--output={self.log}"]
        train = ["--config", "tests/small_config.py", "--workdir", str(self.workdir), *arguments]
        self.number = self.run("sbatch", *flags, "launch/slurm.sbatch", *train)

    def run(self, *command: str) -> str:
        done = subprocess.run(command, env=self._slurm, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def state(self) -> dict[str, str]:
        return dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "show", "job", self.number)))

    def steps(self) -> list[int]:
        file = self.workdir / "metrics.jsonl"
        return [json.loads(line)["step"] for line in file.read_text().splitlines()] if file.exists() else []

    def wait(self, what: Callable[[], bool]) -> None:
        limit = time.monotonic() + 300
        while not what():
            assert time.monotonic() < limit, f"{self.state()}\n{self.log.read_text()}"
            time.sleep(0.2)

    def train_on(self, steps: int) -> None:
        """Until so many steps more are written."""
        before = max(self.steps(), default=0)
        self.wait(lambda: max(self.steps(), default=0) >= before + steps)

    def wait_for_restart(self, number: int) -> None:
        """Slurm waits two minutes before it starts a requeued job again; this waits three seconds, as a start in the second
        in which the job ended is refused (its credential is revoked to the second)."""
        self.wait(lambda: self.state()["Restarts"] == str(number))
        self.wait(lambda: self.state()["JobState"] in ("PENDING", "RUNNING"))
        if self.state()["JobState"] == "PENDING":
            self.run("scontrol", "update", f"jobid={self.number}", "starttime=now+3")
        self.wait(lambda: self.log.read_text().count("slurm: start") == number + 1)


def processes_of(workdir: Path) -> list[int]:
    """The training processes, by their command line."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        words = file.read_bytes().split(b"\0") if file.exists() else []
        if bytes(workdir) in words and b"clip_jax" in words and not words[0].endswith((b"srun", b"bash")):
            found.append(int(file.parent.name))
    return found


@pytest.mark.slow
def test_a_run_outlives_preemption_the_time_limit_and_a_lost_process(slurm: dict[str, str], tmp_path: Path) -> None:
    job = Job(slurm, tmp_path, *SMALL)
    job.train_on(5)
    job.run("scontrol", "requeue", job.number)  # as a preemption: SIGTERM to the processes, SIGKILL after KillWait
    job.wait_for_restart(1)
    job.train_on(5)
    job.run("scancel", "--batch", "--signal=TERM", job.number)  # as --signal=B:TERM does before the time limit
    job.wait_for_restart(2)
    job.train_on(6)
    os.kill(processes_of(job.workdir)[0], signal.SIGKILL)
    job.wait_for_restart(3)
    job.wait(lambda: job.state()["JobState"] in ("COMPLETED", "FAILED"))
    log = job.log.read_text()
    assert job.state()["JobState"] == "COMPLETED", log
    assert log.count("going on from the checkpoint at step") == 3 * 2, log  # each of two processes says so
    assert "stopped and saved, back into the queue" in log
    assert f"finished at step {STEPS}" in log
    assert job.steps() == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_a_wrong_config_is_not_restarted(slurm: dict[str, str], tmp_path: Path) -> None:
    job = Job(slurm, tmp_path, "--config.batch_size=7")
    job.wait(lambda: job.state()["JobState"] in ("COMPLETED", "FAILED"))
    assert job.state()["ExitCode"] == "2:0"
    assert job.state()["Restarts"] == "0"
    assert "not restarted" in job.log.read_text()
