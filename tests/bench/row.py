"""One line of the benchmark's table."""

import dataclasses
import statistics
import time
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Row:
    """question: what was measured. value: the median over the repetitions. spread: largest less smallest, over the
    median."""

    question: str
    value: float
    unit: str
    spread: float


def rate(question: str, unit: str, amount: float, work: Callable[[], object], repetitions: int = 5) -> Row:
    """`amount` of `unit` each call, after one call that warms up."""
    work()
    rates = []
    for _ in range(repetitions):
        began = time.perf_counter()
        work()
        rates.append(amount / (time.perf_counter() - began))
    middle = statistics.median(rates)
    return Row(question, middle, unit, (max(rates) - min(rates)) / middle)
