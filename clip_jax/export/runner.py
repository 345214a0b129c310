"""How an exported file is run."""

import contextlib
import dataclasses
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runner:
    """run: inputs by name -> outputs by name. by: what computes. real: whether it is the file itself that runs, not its
    operations in our own hands; only that is timed."""

    run: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
    by: str
    real: bool = True


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what converters say of themselves: plugins for other libraries, deprecated names, bars of their passes, lines that
    C++ writes past Python. What they raise says enough."""
    before = logging.root.manager.disable
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere:
        try:
            logging.disable(logging.ERROR)
            warnings.simplefilter("ignore")
            for number in (1, 2):
                os.dup2(nowhere.fileno(), number)
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                yield
        finally:
            logging.disable(before)
            for number, old in zip((1, 2), kept, strict=True):
                os.dup2(old, number)
                os.close(old)
