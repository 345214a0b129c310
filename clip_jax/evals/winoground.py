"""Winoground: two images and two captions of the same words in another order; which belongs to which.

Thrush et al. 2022, section 3.2: an example's text, image and group scores. Equal similarities are no success.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from clip_jax.data.source import BadSample, Sample, sample_uid
from clip_jax.evals.embed import Encoder, check_readable
from clip_jax.evals.protocol import Figure, Outcome

WINOGROUND_FIGURES = ("text", "image", "group")
_CHANCE = (1 / 4, 1 / 4, 1 / 6)  # of four similarities in random order
_LIST = "examples.jsonl"
_KEYS = ("image_0", "image_1", "caption_0", "caption_1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WinogroundConfig:
    """folder: examples.jsonl (image_0, image_1, caption_0, caption_1; the rest is not read) beside images/, in which an
    image is named as there, or with .png behind it. limit: first examples only, 0 for all."""

    folder: str = "winoground"
    limit: int = 0


class Winoground:
    """The protocol over a folder. Raises FileNotFoundError that says where the data come from, or ValueError."""

    def __init__(self, config: WinogroundConfig):
        self._source = _Images(Path(config.folder), config.limit)
        check_readable(self._source)

    def __call__(self, encoder: Encoder) -> Outcome:
        """WINOGROUND_FIGURES over the examples of which both images can be read. Raises ValueError where there are none."""
        found = encoder.source(self._source, captions=False)
        row = np.full(len(self._source), -1)
        row[found.index] = np.arange(len(found.index))
        pairs = row.reshape(-1, 2)
        read = (pairs >= 0).all(axis=1)
        if not read.any():
            raise ValueError(f"{self._source.name}: no example has two images that can be read")
        text = encoder.texts(self._source.captions).reshape(len(pairs), 2, -1)[read]
        scores = np.einsum("nce,nie->nci", text, found.image[pairs[read]])
        figures = {
            name: Figure(value=float(hits.mean()), chance=chance)
            for name, hits, chance in zip(WINOGROUND_FIGURES, hits_of(scores), _CHANCE, strict=True)
        }
        return Outcome(figures=figures, counts={"examples": int(read.sum()), "unreadable": found.bad_count})


def hits_of(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether each example has its text, image and group right: f32[N, 2, 2], captions by images -> three bool[N]."""
    s = {(caption, image): scores[:, caption, image] for caption in (0, 1) for image in (0, 1)}
    text = (s[0, 0] > s[1, 0]) & (s[1, 1] > s[0, 1])  # each image prefers its caption
    image = (s[0, 0] > s[0, 1]) & (s[1, 1] > s[1, 0])  # each caption prefers its image
    return text, image, text & image


class _Images:
    """A source of both images of each example in turn, each with its caption."""

    name = "winoground"
    classes = ()

    def __init__(self, folder: Path, limit: int):
        self._list, self._folder = folder / _LIST, folder / "images"
        if not self._list.is_file() or not self._folder.is_dir():
            raise FileNotFoundError(
                f"{folder} lacks {_LIST} or images/: accept the licence at huggingface.co/datasets/facebook/winoground, "
                f"download data/{_LIST} and data/images.zip, and unpack the latter beside the former"
            )
        lines = [line for line in self._list.read_text(encoding="utf-8").splitlines() if line.strip()]
        examples = [self._example(number, line) for number, line in enumerate(lines[: limit or None], 1)]
        if not examples:
            raise ValueError(f"{self._list} is empty; download it again")
        self._names = [name for one in examples for name in (one["image_0"], one["image_1"])]
        self.captions = [text for one in examples for text in (one["caption_0"], one["caption_1"])]

    def _example(self, number: int, line: str) -> dict[str, str]:
        try:
            found: Any = json.loads(line)
            return {key: str(found[key]) for key in _KEYS}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self._list}, line {number}: needs an object with {', '.join(_KEYS)} ({error!r})"
            ) from None

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        path = self._folder / self._names[index]
        try:
            image = (path if path.suffix else path.with_name(f"{path.name}.png")).read_bytes()
        except OSError as error:
            raise BadSample(str(error)) from error
        return Sample(uid=self.uid(index), image=image, captions=(self.captions[index],))

    def shard(self, index: int) -> str:
        return str(self._list)

    def uid(self, index: int) -> int:
        return sample_uid(self.name, self._names[index])
