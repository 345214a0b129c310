"""ARO's relations and attributes: a crop of a photo against its caption and the same one with two words swapped.

Yuksekgonul et al. 2023, section 2: accuracy a relation, or a pair of attributes, and the mean over these, of relations over those
that its authors count. Equal similarities are no success.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clip_jax.data.images import decode
from clip_jax.data.source import BadSample, Sample, sample_uid
from clip_jax.evals.aro_relations import LEFT_OUT
from clip_jax.evals.embed import Encoder, check_readable
from clip_jax.evals.protocol import Figure, Outcome

RELATION_FIGURES = ("macro_accuracy", "accuracy")
_LISTS = {"relation": "visual_genome_relation.json", "attribution": "visual_genome_attribution.json"}
_BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")  # pixels
_TEXTS = ("image_path", "true_caption", "false_caption")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RelationsConfig:
    """folder: visual_genome_relation.json or visual_genome_attribution.json, by `part`, beside images/. limit: first items
    only, 0 for all. least: items that a group needs to count in the mean over groups; None for 25 of a pair of attributes,
    and 1 of a relation."""

    folder: str = "aro"
    part: Literal["relation", "attribution"] = "relation"
    limit: int = 0
    least: int | None = None


class Relations:
    """The protocol over a folder. Raises FileNotFoundError that says where the data come from, or ValueError."""

    def __init__(self, config: RelationsConfig):
        if config.part not in _LISTS:
            raise ValueError(f"part {config.part!r}; there are {', '.join(_LISTS)}")
        if config.least is not None and config.least < 1:
            raise ValueError(f"least {config.least}: give a number of items of at least 1")
        self._least = config.least if config.least is not None else 25 if config.part == "attribution" else 1
        self._left_out = sorted(LEFT_OUT) if config.part == "relation" else []
        self._source = _Crops(config)
        check_readable(self._source)

    def __call__(self, encoder: Encoder) -> Outcome:
        """RELATION_FIGURES over the items that can be read: accuracy over all; the macro average without the relations LEFT_OUT,
        and left out itself where no group is large enough. Raises ValueError where nothing can be read."""
        found = encoder.source(self._source, captions=False)
        if not len(found.index):
            raise ValueError(f"{self._source.name}: no image can be read")
        true, false = encoder.texts(self._source.true), encoder.texts(self._source.false)
        own, swapped = (np.einsum("ne,ne->n", found.image, text[found.index]) for text in (true, false))
        hits = own > swapped
        group = np.array([self._source.groups[int(index)] for index in found.index])
        figures = {"accuracy": Figure(value=float(hits.mean()), chance=1 / 2)}
        meant = ~np.isin(group, self._left_out)
        means = macro(hits[meant], group[meant], self._least)
        if len(means):
            figures = {"macro_accuracy": Figure(value=float(means.mean()), chance=1 / 2)} | figures
        counts = {"images": len(hits), "groups": len(means), "unreadable": found.bad_count}
        return Outcome(figures=figures, counts=counts)


def macro(hits: np.ndarray, group: np.ndarray, least: int) -> np.ndarray:
    """Accuracy of each group of at least so many items: bool[N], names [N] -> f64[G]."""
    _, number, count = np.unique(group, return_inverse=True, return_counts=True)
    return (np.bincount(number, weights=hits) / count)[count >= least]


class _Crops:
    """A source of the items' boxes, cut from their photos."""

    classes = ()

    def __init__(self, config: RelationsConfig):
        self.name = f"aro {config.part}"
        folder, self._list = Path(config.folder), Path(config.folder) / _LISTS[config.part]
        self._folder = folder / "images"
        if not self._list.is_file() or not self._folder.is_dir():
            raise FileNotFoundError(
                f"{folder} lacks {self._list.name} or images/: download both as "
                "github.com/mertyg/vision-language-models-are-bows says, and unpack the images there"
            )
        try:
            found: Any = json.loads(self._list.read_text(encoding="utf-8"))[: config.limit or None]
            self.paths, self.true, self.false = ([str(one[key]) for one in found] for key in _TEXTS)
            self._boxes = [[int(one[key]) for key in _BOX] for one in found]
            self.groups = [
                one["relation_name"] if config.part == "relation" else "_".join(one["attributes"]) for one in found
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self._list} is not ARO's list of items ({error!r}); download it again") from error
        if not self.paths:
            raise ValueError(f"{self._list} is empty; download it again")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        try:
            photo = decode((self._folder / self.paths[index]).read_bytes())
        except OSError as error:
            raise BadSample(str(error)) from error
        x, y, width, height = self._boxes[index]
        crop = photo[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)]
        if 0 in crop.shape:
            raise BadSample(f"a box of no pixels, {x} {y} {width} {height}")
        return Sample(uid=self.uid(index), image=crop, captions=(self.true[index],))

    def shard(self, index: int) -> str:
        return str(self._list)

    def uid(self, index: int) -> int:
        return sample_uid(self.name, f"{index} {self.paths[index]}")
