"""A launcher must tell a run that is complete from one that was told to stop: both are no error."""

import dataclasses
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from clip_jax.cli import train as command
from clip_jax.train import Finished

STOPPED = Finished(step=3, complete=False, figures={}, pairs_per_second=0.0)


@pytest.fixture(autouse=True)
def signals_stay() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("complete", "flag", "code"), [(False, [], 0), (False, ["--stopped_code=75"], 75), (True, ["--stopped_code=75"], 0)]
)
def test_the_exit_code_tells_complete_from_stopped(
    complete: bool, flag: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = dataclasses.replace(STOPPED, complete=complete)
    monkeypatch.setattr(command, "train", lambda *_, **__: done)
    monkeypatch.setattr(command, "start", lambda _: None)
    config = Path(__file__).parents[1] / "small_config.py"
    assert command.main(["train", "--config", str(config), "--workdir", str(tmp_path), *flag]) == code
