"""The numeric gate: source and result of a conversion run on the same real images and captions, and their outputs compared.

A conversion that changes scores silently is worse than none; almost all of them change an activation, a norm's epsilon,
the token at which texts are read, or what fills them, and no list of shapes shows that.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from clip_jax.inputs import normalised, square
from clip_jax.interop.proof import libraries, reference
from clip_jax.interop.proof.outputs import Foreign, Outputs, paired
from clip_jax.interop.proof.samples import COUNT, samples
from clip_jax.models.clip import CLIPConfig, bind
from clip_jax.tokenizer_file import open_tokenizer

__all__ = [
    "COUNT",
    "TOLERANCE",
    "Difference",
    "Foreign",
    "NotProven",
    "Outputs",
    "check",
    "compare",
    "inputs",
    "ours",
    "run",
    "table",
]

# Largest difference in f32 of an element of a unit-norm embedding, and of a logit. Both are absolute, and the logits' is the
# sharper: at a scale of 100 it means cosines equal to 1e-6, where rounding makes 1e-5 of the 1e-4, and the exact GELU in
# place of its tanh approximation 1e-3, though that moves no element of an embedding by 1e-4.
TOLERANCE = 1e-4
_ROUNDING = 0.01  # of the tolerance: an embedding that moved less did not move the logits


class NotProven(ValueError):
    """Two models that should be one give different outputs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """image, text, logits: largest absolute difference, NaN where an output is not finite. cosine: the smallest between
    the two embeddings of an image or a text. by: who computed the two sides."""

    image: float
    text: float
    logits: float
    cosine: float
    by: tuple[str, str]


def inputs(config: CLIPConfig) -> tuple[np.ndarray, np.ndarray]:
    """The samples as the model takes them: normalised f32[COUNT, S, S, 3] and i32[COUNT, L]."""
    images, captions = samples()
    size = config.vision_cfg.image_size
    squares = np.stack([square(image, i, size, config.preprocess_cfg) for i, image in enumerate(images)])
    return normalised(squares, config.preprocess_cfg), open_tokenizer(config.text_cfg)(captions)


def ours(
    config: CLIPConfig,
    params: Any,
    pixels: np.ndarray,
    tokens: np.ndarray,
    *,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> Outputs:
    """What clip_jax's own towers give, jitted, in `dtype` whatever config.dtype is; products as exact as the device can."""
    with jax.default_matmul_precision("highest"):
        found = _towers(dataclasses.replace(config, dtype=dtype))(params, jnp.asarray(pixels), jnp.asarray(tokens))
    image, text, scale, bias = jax.device_get(found)
    return paired(image, text, scale=float(scale), bias=float(bias), by=f"clip_jax in {dtype}")


@functools.cache
def _towers(config: CLIPConfig) -> Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, ...]]:
    def forward(params: Any, pixels: jax.Array, tokens: jax.Array) -> tuple[jax.Array, ...]:
        model = bind(config, params)
        return model.encode_image(pixels), model.encode_text(tokens), model.scale(), model.bias()

    return jax.jit(forward)


def run(foreign: Foreign, pixels: np.ndarray, tokens: np.ndarray) -> Outputs:
    """What weights in a foreign layout give, by its library, or where that is not installed by our own reader of it.

    pixels and tokens are those of libraries.outputs and reference.outputs; `by` says which it was. Raises ValueError where
    the weights do not fit the layout.
    """
    found = libraries.outputs(foreign, pixels, tokens)
    if found is not None:
        return found
    found = reference.outputs(foreign.layout, foreign.state, foreign.settings, pixels, tokens)
    absence = libraries.absence(foreign.layout)
    return dataclasses.replace(found, by=f"{found.by}; {absence}") if absence else found


def compare(left: Outputs, right: Outputs) -> Difference:
    """How far two models' outputs on the same inputs are apart. Raises ValueError for embeddings of different sizes."""
    if left.image.shape != right.image.shape or left.text.shape != right.text.shape:
        raise ValueError(f"embeddings of {left.image.shape} and {right.image.shape}; the models are not the same")
    cosines = [(a * b).sum(-1) for a, b in ((left.image, right.image), (left.text, right.text))]
    return Difference(
        image=_largest(left.image, right.image),
        text=_largest(left.text, right.text),
        logits=_largest(left.logits, right.logits),
        cosine=float(np.min(cosines)),
        by=(left.by, right.by),
    )


def _largest(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(left - right).max())  # NaN stays NaN


def check(difference: Difference, tolerance: float = TOLERANCE) -> None:
    """Raises NotProven where an embedding or a logit differs by more than `tolerance`, or is not a finite number."""
    figures = {name: getattr(difference, name) for name in ("image", "text", "logits")}
    wrong = {name for name, figure in figures.items() if not figure <= tolerance}
    if not wrong:
        return
    listed = ", ".join(f"{_PARTS[name]} {figure:.2e}" for name, figure in figures.items())
    moved = {name for name in ("image", "text") if not figures[name] <= _ROUNDING * tolerance}
    hints = [hint for names, hint in _HINTS if names & (moved or {"logits"})]
    raise NotProven(
        f"the two models differ by more than {tolerance:.0e}: {listed} (smallest cosine {difference.cosine:.6f}).\n"
        f"Computed by {difference.by[0]} and by {difference.by[1]}.\nLook at " + "; ".join(hints)
    )


_PARTS = {"image": "image embeddings", "text": "text embeddings", "logits": "logits"}
_HINTS = (
    ({"logits"}, "logit_scale (its log is stored) and logit_bias"),
    ({"image", "text"}, "the activation (quick_gelu, gelu, its tanh approximation) and the epsilon of layer norms"),
    ({"image"}, "head_width, mean and std, the pooling, the order of position embeddings"),
    ({"text"}, "the token a text is read at (highest id, first end of text, last), the pad id, heads, the causal mask"),
)


def table(difference: Difference, tolerance: float = TOLERANCE) -> Table:
    """For the terminal: the three differences beside what is allowed, and who computed them."""
    shown = Table(title=f"{difference.by[0]}  against  {difference.by[1]}", title_justify="left")
    shown.add_column(f"on {COUNT} images and {COUNT} captions")
    shown.add_column("largest difference", justify="right")
    shown.add_column("allowed", justify="right")
    for name, said in _PARTS.items():
        figure = getattr(difference, name)
        style = "green" if figure <= tolerance else "red"
        shown.add_row(said, f"[{style}]{figure:.1e}[/{style}]", f"{tolerance:.0e}")
    shown.add_row("smallest cosine", f"{difference.cosine:.7f}", "")
    return shown
