"""A profiler's trace of chosen steps, in the run's folder, for TensorBoard or Perfetto."""

from pathlib import Path
from typing import Any

import jax


def check_profile(profile: tuple[int, int], steps: int) -> None:
    """Raises ValueError for steps that a run of so many does not have."""
    first, number = profile
    if number < 0 or first < 0 or (number and not 1 <= first <= steps + 1 - number):
        raise ValueError(
            f"config.profile is {tuple(profile)}; give (first step, number of steps) within steps 1 to {steps}, or (0, 0) "
            "for no trace"
        )


def marked(step: int) -> jax.profiler.StepTraceAnnotation:
    """Context in which step `step` is dispatched: where there is a trace, it has the number."""
    return jax.profiler.StepTraceAnnotation("train", step_num=step)


class Trace:
    """Of `steps` = (first, number) into `folder`, by this process where it is the first; of nothing where number is 0."""

    def __init__(self, steps: tuple[int, int], folder: Path):
        first, number = steps
        self._first, self._last = first, first + number - 1 if jax.process_index() == 0 else -1
        self._folder, self._running = folder, False

    def before(self, step: int, pending: Any) -> None:
        """Call before step `step` is dispatched; pending: arrays of the step before, waited for so that it is not traced."""
        if self._first <= step <= self._last and not self._running:
            jax.block_until_ready(pending)
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, result: Any) -> None:
        """Call with step `step`'s results once it is dispatched."""
        if self._running and step >= self._last:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Writes what there is."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
