"""Runs as users start them: processes that are killed, told to stop, or several; always the same result."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from clip_jax.preemption import StopSignal

ROOT = Path(__file__).parents[2]
CONFIG = "tests/small_config.py"
METRICS = "metrics.jsonl"


def start(
    workdir: Path, *more: str, config: str = CONFIG, command: tuple[str, ...] = ("-m", "clip_jax", "train")
) -> subprocess.Popen[str]:
    return run(*command, "--config", config, "--workdir", str(workdir), *more)


def run(*arguments: str) -> subprocess.Popen[str]:
    """Python with these arguments, on one device."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def lines(workdir: Path) -> int:
    file = workdir / METRICS
    return len(file.read_bytes().splitlines()) if file.exists() else 0


def wait_for_lines(process: subprocess.Popen[str], workdir: Path, number: int) -> None:
    limit = time.monotonic() + 300
    while lines(workdir) < number and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    assert "finished at step 12 of 12" in finish(start(folder))
    return folder


@pytest.fixture(scope="module")
def uninterrupted(whole: Path) -> bytes:
    """Its metrics."""
    return (whole / METRICS).read_bytes()


@pytest.mark.parametrize("kills", [(6,), pytest.param((2, 6, 9), marks=pytest.mark.slow)], ids=["once", "three times"])
def test_killed_again_and_again_the_run_ends_as_if_nothing_had_happened(
    kills: tuple[int, ...], uninterrupted: bytes, tmp_path: Path
) -> None:
    for reached in kills:
        process = start(tmp_path)
        wait_for_lines(process, tmp_path, reached)
        process.kill()
        process.communicate()
    finish(start(tmp_path))
    assert (tmp_path / METRICS).read_bytes() == uninterrupted


@pytest.mark.slow  # as the two processes below are
def test_sigterm_saves_and_exits_0(uninterrupted: bytes, tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_for_lines(process, tmp_path, 2)
    process.send_signal(signal.SIGTERM)
    output = finish(process)
    assert "stopped, saved; the same command goes on at step" in output
    saved = max(int(step.name) for step in (tmp_path / "checkpoints").glob("[0-9]*"))
    assert f"at step {saved} of 12" in output
    assert "going on from the checkpoint at step" in finish(start(tmp_path))
    assert (tmp_path / METRICS).read_bytes() == uninterrupted


def losses(metrics: bytes) -> list[float]:
    return [row["loss"] for row in map(json.loads, metrics.splitlines()) if "loss" in row]


def test_two_processes_train_as_one_and_are_stopped_together(uninterrupted: bytes, tmp_path: Path) -> None:
    launcher = ("launch/local.py", "--processes", "2", "--")
    process = start(tmp_path, command=launcher)
    wait_for_lines(process, tmp_path, 2)
    process.send_signal(signal.SIGTERM)
    assert "stopped, saved" in finish(process)
    assert "finished at step 12" in finish(start(tmp_path, command=launcher))
    ours = (tmp_path / METRICS).read_bytes()
    np.testing.assert_allclose(losses(ours), losses(uninterrupted), rtol=1e-4)
    assert [json.loads(row)["step"] for row in ours.splitlines()] == [
        json.loads(row)["step"] for row in uninterrupted.splitlines()
    ]


@pytest.mark.slow
def test_two_processes_evaluate_as_one(whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    said = finish(run("launch/local.py", "--processes", "2", "--command", "evaluate", "--", str(folder)))
    assert said.count("chance") == 2  # one header, on process 0 only: "chance %" and "x chance"
    assert figure_of(folder)["value"] == pytest.approx(last_row(folder)["val/text_to_image_r1"], rel=1e-6)


def figure_of(folder: Path) -> dict[str, float]:
    """Text to image R@1 of its evaluation."""
    evaluation = json.loads((folder / "evaluation.json").read_text())
    return evaluation["evaluations"]["val"]["figures"]["text_to_image_r1"]


def last_row(folder: Path) -> dict[str, float]:
    return json.loads((folder / METRICS).read_text().splitlines()[-1])


def test_ctrl_c_on_several_processes_is_a_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGTERM, lambda number, _: received.append(number))  # as JAX's preemption service does
        StopSignal()
        signal.raise_signal(signal.SIGINT)
        assert received == [signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_evaluate_and_report_of_a_run(whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    for command in ("evaluate", "report"):
        assert "chance" in finish(run("-m", "clip_jax", command, str(folder)))
    figure = figure_of(folder)
    assert figure["value"] == last_row(folder)["val/text_to_image_r1"]
    assert 0 < figure["chance"] < 0.1
    assert (folder / "report.html").stat().st_size > 10_000
