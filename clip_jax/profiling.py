"""A profiler's trace of chosen steps, in the run's folder, for TensorBoard or Perfetto."""

from pathlib import Path
from typing import Any

import jax


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
