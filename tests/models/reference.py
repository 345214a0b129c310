"""CLIP's towers in NumPy float64, written from the paper and OpenAI's description, one sample and one head at a time."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from clip_jax.models.clip import CLIPConfig

_erf = np.vectorize(math.erf)


def in_float64(params: Any) -> Any:
    """A nested dict of arrays, as float64."""
    if isinstance(params, dict):
        return {name: in_float64(value) for name, value in params.items()}
    return np.asarray(params, np.float64)


def image_embeddings(config: CLIPConfig, params: Any, images: np.ndarray, kept: Any = None) -> np.ndarray:
    """Unit f64[B, E] of normalised f[B, S, S, 3]. kept: of each sample, which patches the transformer sees."""
    visual, patch = in_float64(params)["visual"], config.vision_cfg.patch_size
    grid = config.vision_cfg.image_size // patch
    rows = []
    for number, image in enumerate(images.astype(np.float64)):
        tokens = []
        for index in range(grid * grid) if kept is None else kept[number]:
            y, x = divmod(int(index), grid)
            pixels = image[y * patch : (y + 1) * patch, x * patch : (x + 1) * patch]
            token = np.zeros(config.vision_cfg.width)
            for (i, j, channel), value in np.ndenumerate(pixels):
                token += value * visual["patch_embedding"]["kernel"][(i * patch + j) * 3 + channel]
            tokens.append(token + visual["positional_embedding"][1 + index])
        first = visual["class_embedding"] + visual["positional_embedding"][0]
        x = _norm(np.array([first, *tokens]), visual["ln_pre"])
        heads = config.vision_cfg.width // config.vision_cfg.head_width
        x = _transformer(x, visual["blocks"], heads, causal=False, quick=config.quick_gelu)
        rows.append(_norm(x[0], visual["ln_post"]) @ visual["proj"]["kernel"])
    return _unit(rows)


def text_embeddings(config: CLIPConfig, params: Any, tokens: np.ndarray) -> np.ndarray:
    """Unit f64[B, E] of i32[B, L], pooled at the first occurrence of the highest id."""
    text = in_float64(params)["text"]
    rows = []
    for ids in tokens:
        x = np.array([text["token_embedding"][token] for token in ids]) + text["positional_embedding"][: len(ids)]
        x = _transformer(x, text["blocks"], config.text_cfg.heads, causal=True, quick=config.quick_gelu)
        end = list(ids).index(max(ids))
        rows.append(_norm(x[end], text["ln_final"]) @ text["proj"]["kernel"])
    return _unit(rows)


def info_nce(image: np.ndarray, text: np.ndarray, scale: float) -> tuple[float, tuple[np.ndarray, np.ndarray, float]]:
    """The loss and its gradient with respect to image, text and scale, by the full matrix of logits in float64."""
    image, text = image.astype(np.float64), text.astype(np.float64)
    count, cosines = len(image), image @ text.T
    by_row, by_column = _log_softmax(scale * cosines, 1), _log_softmax(scale * cosines, 0)
    loss = -(np.trace(by_row) + np.trace(by_column)) / (2 * count)
    pull = (np.exp(by_row) + np.exp(by_column) - 2 * np.eye(count)) / (2 * count)  # d loss / d logits
    return float(loss), (scale * pull @ text, scale * pull.T @ image, float((pull * cosines).sum()))


def _log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    x = x - x.max(axis=axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=axis, keepdims=True))


def _transformer(x: np.ndarray, blocks: Any, heads: int, *, causal: bool, quick: bool) -> np.ndarray:
    for layer in range(len(blocks["ln_1"]["scale"])):
        x = x + _attention(_norm(x, _at(blocks["ln_1"], layer)), _at(blocks["attn"], layer), heads, causal=causal)
        mlp = _at(blocks["mlp"], layer)
        hidden = _norm(x, _at(blocks["ln_2"], layer)) @ mlp["fc"]["kernel"] + mlp["fc"]["bias"]
        gate = 1 / (1 + np.exp(-1.702 * hidden)) if quick else (1 + _erf(hidden / math.sqrt(2))) / 2
        x = x + (hidden * gate) @ mlp["proj"]["kernel"] + mlp["proj"]["bias"]
    return x


def _attention(x: np.ndarray, p: Any, heads: int, *, causal: bool) -> np.ndarray:
    length, width = x.shape
    size = width // heads
    q, k, v = np.split(x @ p["qkv"]["kernel"] + p["qkv"]["bias"], 3, axis=-1)
    mixed = np.zeros_like(x)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for i in range(length):
            seen = i + 1 if causal else length
            scores = k[:seen, part] @ q[i, part] / math.sqrt(size)
            weights = np.exp(scores - scores.max())
            mixed[i, part] = weights @ v[:seen, part] / weights.sum()
    return mixed @ p["out"]["kernel"] + p["out"]["bias"]


def _norm(x: np.ndarray, p: Any) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def _at(tree: Any, layer: int) -> Any:
    return {name: _at(value, layer) for name, value in tree.items()} if isinstance(tree, dict) else tree[layer]


def _unit(rows: Sequence[np.ndarray]) -> np.ndarray:
    x = np.array(rows)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
