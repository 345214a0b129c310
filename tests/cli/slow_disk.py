"""clip-jax train as tests.chaos.worker runs it, on the process SLOW with a disk that is slow and once stands still.

SLOW: its number, in the environment. Every read takes 0.3 seconds, one of them longer than a silent process is waited for.
"""

import itertools
import os
import time

from clip_jax.__main__ import main
from clip_jax.data import files
from clip_jax.peers import _SILENCE
from tests.chaos import worker

STILL = _SILENCE + 10  # seconds


def make_slow() -> None:
    """Before main."""
    at_once, count = files.Reader.read, itertools.count()

    def read(self: files.Reader, offset: int, size: int) -> bytes:
        time.sleep(STILL if next(count) == 30 else 0.3)
        return at_once(self, offset, size)

    files.Reader.read = read


if __name__ == "__main__":
    worker.WORKDIR.mkdir(parents=True, exist_ok=True)
    worker.instrument()
    if os.environ.get("SLOW") == worker.PROCESS:
        make_slow()
    main()
