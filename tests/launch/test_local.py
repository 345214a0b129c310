"""What the local launcher says of flags that cannot work; what it does with a run is in tests/cli and tests/chaos."""

import subprocess
import sys
from pathlib import Path

import pytest

LAUNCHER = Path(__file__).parents[2] / "launch" / "local.py"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--processes", "0", "--", "--config", "x"], "--processes 0: at least 1"),
        (["--devices", "-1", "--", "--config", "x"], "--devices -1: at least 1"),
        (["--config", "x"], "--config: not a flag of this launcher; flags of clip-jax come after --"),
    ],
)
def test_flags_that_cannot_work(given: list[str], said: str) -> None:
    done = subprocess.run([sys.executable, str(LAUNCHER), *given], capture_output=True, text=True, timeout=60)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
