"""Image-text retrieval: recall at 1, 5 and 10, both ways, over a gallery with several captions an image."""

import dataclasses

import numpy as np
import scipy.sparse

from clip_jax import metrics
from clip_jax.data.glyphs import GlyphsConfig
from clip_jax.data.sources import SourceConfig, open_source
from clip_jax.evals.embed import Embedded, Encoder, check_readable
from clip_jax.evals.protocol import Figure, Outcome, chunks, first_captions

RETRIEVAL_FIGURES = tuple(f"{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """source: the gallery. limit: its first samples only, 0 for all. first_caption: use each image's first caption only.
    exact: only the pair itself is right, as on COCO and Flickr (Karpathy); else so is any with the same caption.

    Image to text is a hit if any of the image's captions is in the top k, text to image if the caption's image is.
    """

    source: SourceConfig = GlyphsConfig(split="validation")
    limit: int = 0
    first_caption: bool = False
    exact: bool = False


class Retrieval:
    """The protocol over one opened gallery."""

    def __init__(self, config: RetrievalConfig):
        self._config, self._source = config, open_source(config.source)
        check_readable(self._source)

    def __call__(self, encoder: Encoder) -> Outcome:
        """R@1, R@5, R@10 each way. Raises ValueError for a gallery without a single readable pair."""
        found = encoder.source(self._source, limit=self._config.limit)
        if self._config.first_caption:
            first = first_captions(found)
            found = dataclasses.replace(
                found, caption=found.caption[first], owner=found.owner[first], key=found.key[first]
            )
        if not len(found.caption):
            raise ValueError(f"source {self._source.name!r} gave no readable image with a caption; nothing to retrieve")
        figures = retrieval_figures(found, exact=self._config.exact)
        counts = {"images": len(found.image), "captions": len(found.caption), "unreadable": found.bad_count}
        return Outcome(figures=figures, counts=counts)


def retrieval_figures(found: Embedded, *, exact: bool = False) -> dict[str, Figure]:
    """RETRIEVAL_FIGURES of embedded pairs; exact: see RetrievalConfig."""
    images, captions = len(found.image), len(found.caption)
    # Number of the text of each caption; equal texts have one number, unless only the pair itself is right.
    key = np.arange(captions) if exact else np.unique(found.key, return_inverse=True)[1]
    ones = np.ones(captions, np.int64)
    true_of = scipy.sparse.csr_array((ones, (found.owner, key)), shape=(images, key.max() + 1))  # image x text
    true_of.data = np.minimum(true_of.data, 1)
    shown_by = true_of.T.tocsr()
    captioned = np.flatnonzero(true_of.sum(axis=1))  # an image whose captions were all empty asks nothing
    from_image, from_text = [], []
    for at in chunks(len(captioned)):
        rows = captioned[at]
        relevant = true_of[rows].toarray()[:, key] > 0
        from_image.append(metrics.ranks(found.image[rows] @ found.caption.T, relevant))
    for at in chunks(captions):
        relevant = shown_by[key[at]].toarray() > 0
        from_text.append(metrics.ranks(found.caption[at] @ found.image.T, relevant))
    captions_of_image = true_of[captioned] @ np.bincount(key)
    images_of_text = shown_by.sum(axis=1)[key]
    figures = {}
    for name, rank, relevant, items in (
        ("image_to_text", np.concatenate(from_image), captions_of_image, captions),
        ("text_to_image", np.concatenate(from_text), images_of_text, images),
    ):
        for k in (1, 5, 10):
            chance = metrics.chance_recall_at(relevant, items, k)
            figures[f"{name}_r{k}"] = Figure(value=metrics.recall_at(rank, k), chance=chance)
    return figures
