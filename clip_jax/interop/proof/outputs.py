"""A dual encoder in a foreign layout, and what a dual encoder gives for a batch of pairs, whoever computed it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Foreign:
    """Weights as they lie in a foreign layout.

    path: the model's folder, None where there is none. state: their keys and arrays, of any precision. settings: their own
    configuration: open_clip_config.json, config.json, {} for the other layouts.
    """

    layout: str
    path: Path | None
    state: Mapping[str, np.ndarray]
    settings: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outputs:
    """image, text: unit-norm f64[B, E]. logits: image by text, f64[B, B]. by: who computed it, as a message says it."""

    image: np.ndarray
    text: np.ndarray
    logits: np.ndarray
    by: str


def paired(image: np.ndarray, text: np.ndarray, *, scale: float, bias: float, by: str) -> Outputs:
    """Outputs of embeddings [B, E] of any length: logits are scale * cosine + bias.

    scale: the factor itself, not its log.
    """
    image, text = unit(image), unit(text)
    return Outputs(image=image, text=text, logits=scale * (image @ text.T) + bias, by=by)


def unit(x: np.ndarray) -> np.ndarray:
    """[B, E] -> unit-norm f64[B, E]."""
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
