"""Being told to stop: SIGTERM or the first Ctrl-C ends the run after the step at hand, with a checkpoint."""

import os
import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils


class StopSignal:
    """Callable `(step) -> bool`, true once this run, on any of its processes, has been told to stop.

    On several processes JAX's preemption service agrees on a step that all of them have reached; it listens to SIGTERM,
    which Ctrl-C turns into there.
    """

    def __init__(self) -> None:
        self._asked = False
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    def __call__(self, step: int) -> bool:
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
