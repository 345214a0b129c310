"""scikit-learn's 1,797 handwritten digits, 8x8 pixels: real, labelled, offline. Alpaydin & Kaynak 1998."""

import dataclasses
import functools

import numpy as np
from PIL import Image

from clip_jax.data.source import Sample, sample_uid

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DigitsConfig:
    """size: pixels a side, enlarged smoothly. dark_on_light: ink on paper; else as they are stored, light on dark."""

    size: int = 64
    dark_on_light: bool = True


class Digits:
    """The digits as a source; labels 0 to 9."""

    name = "digits"
    classes = CLASSES

    def __init__(self, config: DigitsConfig):
        if config.size < 8:
            raise ValueError(f"digits size {config.size} is smaller than the 8 pixels they have")
        self._config = config

    def __len__(self) -> int:
        return len(_digits()[1])

    def __getitem__(self, index: int) -> Sample:
        pixels, labels = _digits()
        gray = (pixels[index] * (255 / 16)).astype(np.uint8)
        if self._config.dark_on_light:
            gray = 255 - gray
        image = Image.fromarray(gray).resize((self._config.size, self._config.size), Image.Resampling.BICUBIC)
        label = int(labels[index])
        caption = f"a handwritten {CLASSES[label]}"
        return Sample(uid=self.uid(index), image=np.array(image.convert("RGB")), captions=(caption,), label=label)

    def shard(self, index: int) -> str:
        """Where it comes from."""
        return "sklearn.datasets.load_digits"

    def uid(self, index: int) -> int:
        """By its place in the set."""
        return sample_uid(self.name, str(index))


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return np.asarray(pixels).reshape(-1, 8, 8), np.asarray(labels)
