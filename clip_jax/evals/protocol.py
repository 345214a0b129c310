"""What an evaluation protocol gives back."""

import dataclasses
from typing import Any, Protocol

from clip_jax.evals.embed import Encoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """One number, and what chance would give (None where chance has no meaning). Both are shares in [0, 1]."""

    value: float
    chance: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """figures: by name. counts: of what was evaluated (images, captions, classes, unreadable). pictures: arrays for a
    report, by name; empty for most protocols."""

    figures: dict[str, Figure]
    counts: dict[str, int]
    pictures: dict[str, Any] = dataclasses.field(default_factory=dict)


class Evaluation(Protocol):
    """An opened evaluation: run it on any model's encoder."""

    def __call__(self, encoder: Encoder) -> Outcome: ...
