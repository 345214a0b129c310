"""What every export is run on: two hundred real images and captions, and what our own model gives for them."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from clip_jax.data.glyphs import Glyphs, GlyphsConfig
from clip_jax.inputs import normalised, square
from clip_jax.interop.proof.samples import samples
from clip_jax.model import Model
from clip_jax.models.clip import CLIPConfig

_DRAWINGS = 192


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """squares: u8[N, S, S, 3]. pixels: the same, normalised, f32. tokens: i32[N, L]. outputs: of our own model in f32 by their
    names in an export, unit-norm f32[N, E]. scale, bias: the learned ones, of logits."""

    squares: np.ndarray
    pixels: np.ndarray
    tokens: np.ndarray
    outputs: Mapping[str, np.ndarray]
    scale: float
    bias: float

    def __len__(self) -> int:
        return len(self.tokens)

    def inputs(self, wanted: Mapping[str, tuple[tuple[int, ...], np.dtype]], rows: np.ndarray) -> dict[str, np.ndarray]:
        """Those of a graph, by `Graph.inputs`, for some of the samples."""
        found = {}
        for name, (_, dtype) in wanted.items():
            given = self.tokens if name == "tokens" else self.squares if dtype == np.uint8 else self.pixels
            found[name] = given[rows]
        return found


def known(config: CLIPConfig, params: Any) -> Samples:
    """The samples, prepared as the model's settings say, and its own outputs: the eight of every conversion, and drawings by
    a hand that no training split of `glyphs` has. Raises ValueError or FileNotFoundError without the model's tokenizer."""
    images, captions = _collected()
    model = Model(config, params)
    tokens = model.tokenize(captions)
    size, settings = model.image_size, config.preprocess_cfg
    squares = np.stack([square(image, i, size, settings) for i, image in enumerate(images)])
    return Samples(
        squares=squares,
        pixels=normalised(squares, settings),
        tokens=tokens,
        outputs={"image_embedding": model.encode_image(squares), "text_embedding": model.encode_text(tokens)},
        scale=model.logit_scale,
        bias=model.logit_bias or 0.0,
    )


@functools.cache
def _collected() -> tuple[list[np.ndarray], list[str]]:
    images, captions = samples()
    drawings = Glyphs(GlyphsConfig(split="designers", size=96, limit=_DRAWINGS))
    drawn = [drawings[i] for i in range(len(drawings))]
    return [*images, *(np.asarray(one.image) for one in drawn)], [*captions, *(one.captions[0] for one in drawn)]
