"""Which features of a TFDS data set are its images, captions and labels."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

# A text feature is taken for the caption if a part of its path is one of these.
_CAPTION_NAMES = {
    "alt_text", "caption", "captions", "description", "descriptions", "sentence", "sentences", "text", "texts", "title",
}  # fmt: skip

Path = tuple[str, ...]


class Fields(NamedTuple):
    """Paths of features. caption () is made from the label, label () is none."""

    image: Path
    caption: Path
    label: Path


def find(name: str, features: Any, *, image_key: str, caption_key: str, label_key: str) -> Fields:
    """The features of the given paths ("captions/text") or, where "" is given, the only ones that can be meant.

    Without captions, or with a label_key only, captions are to be made of labels. Raises ValueError that lists what
    data set `name` has where a path is wrong, nothing fits or several features do.
    """
    import tensorflow_datasets as tfds

    leaves = {
        "/".join(path): (path, feature, depth)
        for path, feature, depth in sorted(_leaves(features), key=lambda leaf: leaf[0])
    }
    images = [
        key for key, (_, feature, depth) in leaves.items() if isinstance(feature, tfds.features.Image) and not depth
    ]
    labels = [
        key
        for key, (_, feature, depth) in leaves.items()
        if isinstance(feature, tfds.features.ClassLabel) and not depth
    ]
    texts = [key for key, (_, feature, depth) in leaves.items() if _is_text(feature) and depth <= 1]
    likely = [key for key in texts if _CAPTION_NAMES & set(key.lower().split("/"))]
    listed = ", ".join(
        f"{key}: {type(feature).__name__}{' list' * depth}" for key, (_, feature, depth) in leaves.items()
    )

    def choose(option: str, given: str, found: list[str], usual: str, what: str) -> str:
        if given and given not in found:
            raise ValueError(f"{name} has no {what} {given!r}; set {option} to one of its features: {listed}")
        if given or len(found) <= 1:
            return given or "".join(found)
        if usual in found:
            return usual
        raise ValueError(f"{name} has several features that may be the {what}: {', '.join(found)}; set {option} to one")

    image = choose("image_key", image_key, images, "image", "image")
    if not image:
        raise ValueError(f"{name} has no images, only {listed}")
    only_label = label_key and not caption_key
    if only_label or caption_key:
        caption = "" if only_label else choose("caption_key", caption_key, texts, "", "caption")
    else:
        caption = choose("caption_key", "", likely or ([] if labels else texts), "caption", "caption")
    if caption and not label_key:
        label = labels[0] if len(labels) == 1 else ""
    else:
        label = choose("label_key", label_key, labels, "label", "label")
    if not caption and not label:
        raise ValueError(f"{name} has neither captions nor labels, only {listed}")
    return Fields(*(leaves[key][0] if key else () for key in (image, caption, label)))


def _leaves(feature: Any, path: Path = (), depth: int = 0) -> Iterator[tuple[Path, Any, int]]:
    """(path, feature, how many lists it is in) of every feature that holds no others."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.FeaturesDict):
        for key, inner in feature.items():
            yield from _leaves(inner, (*path, key), depth)
    elif isinstance(feature, tfds.features.Sequence):
        yield from _leaves(feature.feature, path, depth + 1)
    else:
        yield path, feature, depth


def _is_text(feature: Any) -> bool:
    import tensorflow_datasets as tfds

    plain = type(feature) in (tfds.features.Tensor, tfds.features.Scalar) and feature.shape == ()
    return isinstance(feature, tfds.features.Text) or (plain and feature.np_dtype in (np.object_, np.str_, np.bytes_))
