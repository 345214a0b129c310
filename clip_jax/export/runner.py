"""How an exported file is run."""

import contextlib
import dataclasses
import logging
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
    """Without what converters say of themselves: plugins for other libraries, deprecated names, bars of their passes."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
