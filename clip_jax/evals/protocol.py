"""What an evaluation protocol takes, how it goes through it, and what it gives back."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from clip_jax.evals.embed import Embedded, Encoder

OpenTeacher = Callable[[str], Encoder]  # takes what clip_jax.load does
_SIGNED = ("kendall_tau", "color_minus_noun", "entropy_ratio", "cosine_", "minus_teacher", "effective_robustness")
_CHUNK = 1024  # rows scored against a gallery at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """One number, and what chance would give (None where chance has no meaning). Both are shares in [0, 1], or numbers
    of another kind: see is_share."""

    value: float
    chance: float | None

    @property
    def times(self) -> float | None:
        """How many times chance the value is; None where either is unknown, or chance is not above 0."""
        return self.value / self.chance if self.chance and self.chance > 0 and math.isfinite(self.value) else None


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


def is_share(figure: str) -> bool:
    """Whether a figure of this name is a share in [0, 1]; else it is a correlation, a difference or a ratio."""
    return not figure.startswith(_SIGNED)


def chunks(count: int) -> list[slice]:
    """range(count) in pieces, so that their scores against a gallery fit in memory."""
    return [slice(start, start + _CHUNK) for start in range(0, count, _CHUNK)]


def first_captions(found: Embedded) -> np.ndarray:
    """Row of each captioned image's first caption, in the images' order: i64[at most N]."""
    return np.unique(found.owner, return_index=True)[1]
