"""A few kills of each kind; `make chaos` does a hundred."""

import os
from pathlib import Path

import pytest

from tests.chaos.__main__ import chaos
from tests.chaos.table import summary, tables


@pytest.mark.slow
def test_killed_runs_end_as_undisturbed_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "PYTHONPATH", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # set back afterwards
    rounds = chaos(5, tmp_path, seed=1)
    assert sum(len(one["kills"]) for one in rounds) >= 5
    assert all(one["as_it_should_be"] for one in rounds)
    assert chaos(5, tmp_path, seed=1) == rounds, "what was done is not done again"


def test_the_table() -> None:
    kill = {
        "phase": "steps",
        "signal": "SIGKILL",
        "victim": "process 1 of 2",
        "recovery_seconds": 3.0,
        "end_seconds": 0.5,
    }
    everyone = kill | {"signal": "SIGTERM", "victim": "all 2", "recovery_seconds": 0.0}
    one = {"processes": [2], "starts": 3, "kills": [kill, everyone], "as_it_should_be": True, "exact": True}
    one |= {"samples": 640, "lost": 0, "repeated": 0, "loss_difference": 0.0}
    said = "\n".join(summary([one]))
    assert said.startswith("2 kills over 1 runs, 3 starts.\n1 of 1 runs")
    assert "640 samples trained on: 0 lost, 0 repeated" in said
    assert "3.0 s on average, 3.0 s at most (1 times" in said
    written = tables([one])
    assert "| steps | 1 | 1 | 2 |" in written
    assert "| 2 | 1 | 2 | 1 | 1 | 3 | 0 |" in written
