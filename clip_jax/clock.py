"""Wall time of training steps: pairs a second, the loader's share, FLOP/s against the device's peak."""

import time


class Clock:
    """How fast steps are, and how much of it is waiting for the loader; evaluation and saving left out.

    pairs: a step. flops: of the model, a pair and device. peak: FLOP/s of a device, None where it is not known.
    """

    def __init__(self, pairs: int, flops: float, peak: float | None):
        self._pairs, self._flops, self._peak = pairs, flops, peak
        self._last = time.perf_counter()
        self._ticks, self._waited = 0, 0.0
        self._seconds = self.wait_share = 0.0

    @property
    def pairs_per_second(self) -> float:
        """A moving average; 0 until the second step, for the first holds the compilation."""
        return self._pairs / self._seconds if self._seconds else 0.0

    def waiting(self) -> "_Pause":
        """Context: time waiting for the loader."""
        return _Pause(self, counts=True)

    def paused(self) -> "_Pause":
        """Context: time that is no step's."""
        return _Pause(self, counts=False)

    def tick(self) -> None:
        """A step has ended."""
        now = time.perf_counter()
        seconds = max(now - self._last, 1e-9)
        if self._ticks:
            weight = max(1 / self._ticks, 0.02)
            self._seconds += weight * (seconds - self._seconds)
            self.wait_share += weight * (min(self._waited / seconds, 1.0) - self.wait_share)
        self._last, self._waited = now, 0.0
        self._ticks += 1

    def figures(self) -> dict[str, float]:
        """pairs_per_second, step_seconds, loader_wait (share), tflops (model FLOP/s a device / 1e12), mfu where the
        device's peak is known."""
        tflops = self._flops * self.pairs_per_second / 1e12
        known = {"mfu": tflops * 1e12 / self._peak} if self._peak else {}
        return {
            "pairs_per_second": self.pairs_per_second,
            "step_seconds": self._seconds,
            "loader_wait": self.wait_share,
            "tflops_per_device": tflops,
        } | known


class _Pause:
    def __init__(self, clock: Clock, *, counts: bool):
        self._clock, self._counts = clock, counts

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        spent = time.perf_counter() - self._began
        if self._counts:
            self._clock._waited += spent
        else:
            self._clock._last += spent
