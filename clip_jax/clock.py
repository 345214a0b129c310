"""Wall time of training: how fast steps are, what keeps them waiting, and how much of a run's time went into steps that count."""

import collections
import time

import numpy as np

_WINDOW = 1000  # steps that percentiles are of


class Clock:
    """Speed of steps, evaluation and saving left out, and goodput.

    pairs: a step. flops: of the model, a pair and device. peak: FLOP/s of a device, None where it is not known.
    began: when the run was first started, seconds as of time.time(); useful: seconds in steps that count before this start.
    """

    def __init__(
        self, pairs: int, flops: float, peak: float | None, *, began: float | None = None, useful: float = 0.0
    ):
        self._pairs, self._flops, self._peak = pairs, flops, peak
        self._began, self._useful = time.time() if began is None else began, useful
        self._last = time.perf_counter()
        self._steps: collections.deque[float] = collections.deque(maxlen=_WINDOW)
        self._ticks, self._waited, self._stalled = 0, 0.0, 0.0
        self._seconds = self.wait_share = 0.0

    @property
    def pairs_per_second(self) -> float:
        """A moving average; 0 until the second step, for the first holds the compilation."""
        return self._pairs / self._seconds if self._seconds else 0.0

    def waiting(self) -> "_Span":
        """Context: time waiting for the loader."""
        return _Span(self, "wait")

    def paused(self) -> "_Span":
        """Context: time that is no step's."""
        return _Span(self, "pause")

    def stalled(self) -> "_Span":
        """Context: time that is no step's but a checkpoint's."""
        return _Span(self, "stall")

    def tick(self) -> None:
        """A step has ended."""
        now = time.perf_counter()
        seconds = max(now - self._last, 1e-9)
        if self._ticks:
            weight = max(1 / self._ticks, 0.02)
            self._seconds += weight * (seconds - self._seconds)
            self.wait_share += weight * (self._waited / seconds - self.wait_share)
            self._steps.append(seconds)
            self._useful += seconds
        self._last, self._waited = now, 0.0
        self._ticks += 1

    def figures(self) -> dict[str, float]:
        """pairs_per_second, step_seconds and its percentiles over the last steps (step_p50, step_p90, step_p99), loader_wait
        (share), tflops_per_device (model FLOP/s / 1e12), mfu where the device's peak is known, checkpoint_stall (seconds
        that training waited for checkpoints, since this start or the last rewind), useful_seconds (in steps that count, of
        all starts), goodput (their share of the time since the run first began)."""
        tflops = self._flops * self.pairs_per_second / 1e12
        known = {"mfu": tflops * 1e12 / self._peak} if self._peak else {}
        p50, p90, p99 = np.percentile(self._steps, (50, 90, 99)) if self._steps else (0.0,) * 3
        return {
            "pairs_per_second": self.pairs_per_second,
            "step_seconds": self._seconds,
            "step_p50": float(p50),
            "step_p90": float(p90),
            "step_p99": float(p99),
            "loader_wait": self.wait_share,
            "tflops_per_device": tflops,
            "checkpoint_stall": self._stalled,
            "useful_seconds": self._useful,
            "goodput": self._useful / max(time.time() - self._began, 1e-9),
        } | known


class _Span:
    def __init__(self, clock: Clock, kind: str):
        self._clock, self._kind = clock, kind

    def __enter__(self) -> None:
        self._entered = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        spent = time.perf_counter() - self._entered
        if self._kind == "wait":
            self._clock._waited += spent
            return
        self._clock._last += spent
        if self._kind == "stall":
            self._clock._stalled += spent
