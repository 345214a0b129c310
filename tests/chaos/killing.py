"""One run, started and killed again and again until it is done."""

import dataclasses
import importlib.util
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clip_jax.run_folder import newest_step

ROOT = Path(__file__).parents[2]
DEVICES = 1  # a process
# Phases to kill in, how often each is chosen, and the seconds after its beginning within which the kill falls.
TARGETS = {
    "start": (1, 6.0),
    "restore": (1, 0.3),
    "compilation": (2, 1.0),
    "steps": (3, 1.2),
    "checkpoint": (3, 0.4),
    "evaluation": (2, 0.3),
}
_LIMIT = 600.0  # seconds that a start may take; longer is a hang


@dataclasses.dataclass(kw_only=True)
class Kill:
    """signal: its name. victim: "process 1 of 2", or "all 2 processes" as where power fails. phase: what process 0 was
    doing. end_seconds: until all processes had ended. recovery_seconds: from the kill to steps again, of the next start,
    0 where that was killed before it came so far."""

    signal: str
    victim: str
    phase: str
    step: int
    end_seconds: float
    code: int
    recovery_seconds: float = 0.0


def load_launcher(log: Path) -> Any:
    """launch/local.py, its output in a file."""
    spec = importlib.util.spec_from_file_location("local", ROOT / "launch" / "local.py")
    assert spec
    assert spec.loader
    local: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(local)

    def write(line: str) -> None:
        with log.open("a") as file:
            file.write(line)

    def show(number: int, process: Any) -> None:
        for line in process.stdout:
            write(f"[{number}] {line}")

    local._show, local._say = show, lambda line: write(f"[launch] {line}\n")
    return local


class Start:
    """One start of the run in `folder`, by launch/local.py."""

    def __init__(self, folder: Path, processes: int, more: tuple[str, ...] = ()):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self.processes = folder, processes
        local = load_launcher(folder / "log")
        self._group, self.stopped = local.Group(), local.STOPPED
        config = ("--config", "tests/chaos/config.py", "--workdir", str(folder), *more)
        command = [sys.executable, "-m", "tests.chaos.worker", "train", *config, f"--stopped_code={local.STOPPED}"]
        for file in folder.glob("phase.*"):
            file.unlink()
        self._code: list[int] = []
        self._thread = threading.Thread(target=lambda: self._code.append(self._group.run(command, processes, DEVICES)))
        self._thread.start()

    def phase(self) -> str:
        """What process 0 does; checkpoints are also written behind the steps."""
        try:
            phase = (self._folder / "phase.0").read_text().partition(" ")[2]
        except OSError:
            phase = "start"
        writing = any((self._folder / "checkpoints").glob("*tmp*"))
        return "checkpoint" if writing and phase == "steps" else phase

    def wait_for(self, wanted: Callable[[str], bool]) -> bool:
        """Whether it came so far before it ended."""
        limit = time.monotonic() + _LIMIT
        while self._thread.is_alive():
            if wanted(self.phase()):
                return True
            assert time.monotonic() < limit, f"a start in {self._folder} hangs; see its log"
            time.sleep(0.005)
        return False

    def alive(self) -> bool:
        return self._thread.is_alive()

    def send(self, number: int, victims: list[int]) -> None:
        for victim in victims:
            self._group._running[victim].send_signal(number)

    def started(self) -> bool:
        return len(self._group._running) == self.processes

    def end(self) -> int:
        """Waits; the launcher's exit code."""
        self._thread.join(_LIMIT)
        assert not self._thread.is_alive(), f"a start in {self._folder} hangs; see its log"
        return self._code[0]


def kill_once(start: Start, rng: random.Random, folder: Path, on_steps: Callable[[], None]) -> Kill | None:
    """Kills at a random moment; None where the run ended before. on_steps: called once it trains."""
    phase = rng.choices(list(TARGETS), [weight for weight, _ in TARGETS.values()])[0]
    delay = rng.uniform(0, TARGETS[phase][1])
    trained = phase in ("steps", "checkpoint", "evaluation")
    if trained and start.wait_for(lambda now: now == "steps"):
        on_steps()
        time.sleep(rng.uniform(0, 0.5))
    if not start.wait_for(lambda now: now == phase or (phase == "restore" and now == "compilation")):
        return None
    time.sleep(delay)
    while start.alive() and not start.started():
        time.sleep(0.005)
    number = rng.choices([signal.SIGKILL, signal.SIGTERM], [3, 1])[0]
    everyone = list(range(start.processes))
    alone = start.processes > 1 and rng.random() < 0.8
    victims = [rng.choice(everyone)] if alone else everyone
    if not start.alive():
        return None
    at = time.monotonic()
    start.send(number, victims)
    seen = start.phase()
    who = f"process {victims[0]} of {len(everyone)}" if alone else f"all {len(everyone)}"
    code = start.end()
    if code == 0:
        return None  # it was done before the signal came
    return Kill(
        signal=number.name,
        victim=who,
        phase=seen,
        step=newest_step(folder),
        end_seconds=time.monotonic() - at,
        code=code,
    )


def kill_until_done(
    folder: Path, processes: tuple[int, ...], kills: int, seed: int, told: Callable[[Kill], None]
) -> tuple[list[Kill], int]:
    """(kills, starts) of a run in `folder` that is killed up to `kills` times and then let finish; each start has one of
    the numbers of `processes`."""
    rng, found, starts, killed_at = random.Random(seed), [], 0, 0.0

    def on_steps() -> None:
        if found and not found[-1].recovery_seconds:
            found[-1].recovery_seconds = time.monotonic() - killed_at

    while True:
        start = Start(folder, rng.choice(processes))
        starts += 1
        if len(found) == kills:
            if start.wait_for(lambda now: now == "steps"):
                on_steps()
            code = start.end()
            assert code == 0, f"undisturbed, the run in {folder} ended with {code}; see its log"
            return found, starts
        kill = kill_once(start, rng, folder, on_steps)
        killed_at = time.monotonic() - (kill.end_seconds if kill else 0)
        if kill is None:
            code = start.end()
            assert code == 0, f"the run in {folder} ended with {code} by itself; see its log"
            return found, starts
        found.append(kill)
        told(kill)


def environment(cache: Path) -> None:
    """Of all that is started from here."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache.absolute())
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["XLA_FLAGS"] = ""
    os.environ["PYTHONPATH"] = str(ROOT)
