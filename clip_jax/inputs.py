"""What people give as images and texts, checked, and made into what a model takes.

Transparency is laid over white, palettes become RGB before anything is resized, and EXIF turns images upright, where
libraries built on torchvision drop alpha after resizing, resize palettes as they are, and leave images as they lie.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from clip_jax.data.images import decode, pixels, preprocess
from clip_jax.data.source import BadSample
from clip_jax.models.clip import PreprocessConfig, normalize_pixels
from clip_jax.models.text import TextConfig

ImageLike = Image.Image | np.ndarray | bytes | str | os.PathLike[str]
Images = ImageLike | jax.Array | Sequence[ImageLike]
Texts = str | bytes | np.ndarray | jax.Array | Sequence[str | bytes] | Sequence[Sequence[int]]

_KINDS = "PIL images, paths, encoded bytes, or u8[H, W, 3] arrays"


def listed(images: Images, size: int) -> np.ndarray | Sequence[Any]:
    """Images as a list to be squared one by one; a preprocessed batch as it is: f32[B, size, size, 3].

    One image counts as a list of one. Raises ValueError for an array of another shape or type, and for no image at all.
    """
    if isinstance(images, Image.Image | bytes | str | os.PathLike):
        return [images]
    if not hasattr(images, "shape"):
        if not isinstance(images, Sequence):
            raise ValueError(f"images are of type {type(images).__name__}; give one or a sequence of {_KINDS}")
        if not images or not all(hasattr(image, "shape") and is_float(image) for image in images):
            return images
        shapes = {np.asarray(image).shape for image in images}
        if len(shapes) > 1:
            raise ValueError(f"preprocessed images of shapes {sorted(shapes)}; all must be ({size}, {size}, 3)")
        images = np.stack([np.asarray(image) for image in images])
    array = np.asarray(images)
    batch = array[None] if array.ndim == 3 else array
    if batch.ndim == 4 and batch.shape[3] == 3 and batch.dtype == np.uint8:
        return batch
    if batch.ndim == 4 and batch.shape[1:] == (size, size, 3) and is_float(batch):
        return batch.astype(np.float32, copy=False)
    if batch.ndim == 4 and batch.shape[1] == 3 != batch.shape[3]:
        hint = "; these look as if channels came first: transpose to [B, H, W, 3]"
    elif is_float(batch):
        hint = "; floats are taken as preprocessed. model.preprocess makes them, from images of any size"
    else:
        hint = ""
    raise ValueError(
        f"images are {_described(array)}; give f32[B, {size}, {size}, 3] from model.preprocess, u8[B, H, W, 3], or a "
        f"sequence of {_KINDS}{hint}"
    )


def square(image: Any, number: int, size: int, config: PreprocessConfig) -> np.ndarray:
    """One image -> u8[size, size, 3] as the model's own preprocessing cuts it; what has that shape is left as it is.

    number: of the image among those given, for messages. Raises ValueError for one that cannot be read, FileNotFoundError
    for a file that is not there; both name it.
    """
    name = f"image {number}"
    if isinstance(image, str | os.PathLike):
        name, image = f"{name}, {os.fspath(image)}", _content(image, number)
    try:
        array = (
            decode(image) if isinstance(image, bytes) else pixels(image) if isinstance(image, Image.Image) else image
        )
    except BadSample as error:
        raise ValueError(f"{name}: {error.reason}") from error
    if not hasattr(array, "shape"):
        raise ValueError(f"{name} is of type {type(image).__name__}; give {_KINDS}")
    array = np.asarray(array)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        hint = "; floats are taken as preprocessed, and come in a batch of their own" if is_float(array) else ""
        raise ValueError(f"{name} is {_described(array)}; give {_KINDS}{hint}")
    if array.shape == (size, size, 3):
        return array
    return preprocess(
        array,
        size,
        resize_mode=config.resize_mode,
        interpolation=config.interpolation,
        fill_color=config.fill_color,
    )


def _content(path: str | os.PathLike[str], number: int) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = error.strerror if isinstance(error, OSError) else error
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"image {number}: {os.fspath(path)} cannot be read: {reason}") from error


def normalised(squares: np.ndarray, config: PreprocessConfig) -> np.ndarray:
    """u8[B, S, S, 3] -> f32[B, S, S, 3]: (x / 255 - mean) / std of each channel, as the image tower does to bytes."""
    levels = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None], (256, 3))
    table = np.asarray(normalize_pixels(jnp.asarray(levels), config))
    return table[squares, np.arange(3)]


def token_ids(texts: Texts, tokenize: Callable[[Sequence[str | bytes]], np.ndarray], config: TextConfig) -> np.ndarray:
    """Texts, or ids as `tokenize` makes them -> i32[B, L]; one text counts as B = 1.

    Raises ValueError for rows of another length, ids outside the vocabulary, and anything that is neither text nor ids.
    """
    if isinstance(texts, str | bytes):
        ids = tokenize([texts])
    elif not hasattr(texts, "shape") and not isinstance(texts, Sequence):
        raise ValueError(f"texts are of type {type(texts).__name__}; give str, a sequence of str, or ids i32[B, L]")
    elif len(texts) == 0 and getattr(texts, "ndim", 1) == 1:
        ids = np.zeros((0, config.context_length), np.int32)
    elif any(isinstance(text, str | bytes) for text in texts):
        ids = tokenize(cast(list[str | bytes], list(texts)))  # the tokenizer names one that is neither
    else:
        ids = _rows_of_ids(texts, config.context_length)
    if wrong := np.argwhere((ids < 0) | (ids >= config.vocab_size)).tolist():
        row, column = wrong[0]
        raise ValueError(
            f"text {row} holds id {ids[row, column]}; the model's vocabulary is {config.vocab_size} ids from 0 on"
        )
    return ids.astype(np.int32)


def _rows_of_ids(texts: Any, length: int) -> np.ndarray:
    try:
        array = np.asarray(texts)
    except ValueError as error:  # rows of several lengths
        raise ValueError(f"texts are no array of ids: {error}; give str, or ids i32[B, {length}]") from error
    rows = array[None] if array.ndim == 1 else array
    if rows.ndim != 2 or rows.shape[1] != length or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(
            f"texts are {_described(array)}; give str, a sequence of str, or ids i32[B, {length}] from model.tokenize"
        )
    return rows


def is_float(array: Any) -> bool:
    return jnp.issubdtype(np.asarray(array).dtype, jnp.floating)


def _described(array: np.ndarray) -> str:
    """As JAX writes it: `float32[2,3]`."""
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"
