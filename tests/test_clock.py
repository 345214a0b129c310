"""Where the time of a run goes."""

import time

import pytest

from clip_jax import clock as clock_module
from clip_jax.clock import Clock


class Time:
    """A clock that stands until it is told to move."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.now = 1000.0
        patch.setattr(time, "perf_counter", lambda: self.now)
        patch.setattr(time, "time", lambda: self.now)


def test_steps_waits_stalls_and_goodput(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Time(monkeypatch)
    clock = Clock(16, 1e9, 1e12, began=900.0, useful=20.0)
    world.now += 30  # compilation
    clock.tick()
    for seconds in (1.0,) * 98 + (3.0,) * 2:
        with clock.waiting():
            world.now += 0.25
        world.now += seconds - 0.25
        clock.tick()
    with clock.paused():
        world.now += 7
    with clock.stalled():
        world.now += 5
    figures = clock.figures()
    assert figures["useful_seconds"] == pytest.approx(20 + 98 + 6)
    assert figures["goodput"] == pytest.approx((20 + 98 + 6) / (100 + 30 + 104 + 7 + 5))
    assert figures["checkpoint_stall"] == pytest.approx(5)
    assert (figures["step_p50"], figures["step_p90"]) == pytest.approx((1.0, 1.0))
    assert 1 < figures["step_p99"] <= 3
    assert 0.2 < figures["loader_wait"] < 0.26
    assert figures["mfu"] == pytest.approx(figures["tflops_per_device"])
    world.now += 1
    clock.tick()
    assert clock.figures()["useful_seconds"] == pytest.approx(125), "pauses are no step's"


def test_percentiles_are_of_the_last_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Time(monkeypatch)
    monkeypatch.setattr(clock_module, "_WINDOW", 4)
    clock = Clock(16, 1e9, None)
    for seconds in (0.0, 9.0, 9.0, 1.0, 1.0, 1.0, 1.0):
        world.now += seconds
        clock.tick()
    assert clock.figures()["step_p99"] == pytest.approx(1.0)
    assert "mfu" not in clock.figures()


def test_a_clock_that_has_seen_nothing() -> None:
    assert Clock(16, 1e9, None).figures()["step_p99"] == 0
