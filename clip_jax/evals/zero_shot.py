"""Zero-shot classification with prompt ensembles. Radford et al. 2021, section 3.1."""

import dataclasses
from pathlib import Path
from typing import Literal

from clip_jax import metrics
from clip_jax.data.digits import DigitsConfig
from clip_jax.data.sources import SourceConfig, open_source
from clip_jax.evals.embed import Encoder, check_readable
from clip_jax.evals.prompts import TEMPLATES, check_templates, class_embeddings, readable
from clip_jax.evals.protocol import Figure, Outcome

ZERO_SHOT_FIGURES = ("top1", "top5", "mean_per_class")  # top5 from six classes on


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZeroShotConfig:
    """source: labelled images. classes: their names, () for the source's own. classes_file: a text file with these names, one
    a line. rename: (one of the source's names, what stands for it in prompts). templates: `{}` stands for the name. metric:
    the figure that speaks for this set, which comes first."""

    source: SourceConfig = DigitsConfig()
    classes: tuple[str, ...] = ()
    classes_file: str = ""
    rename: tuple[tuple[str, str], ...] = ()
    templates: tuple[str, ...] = TEMPLATES
    metric: Literal["accuracy", "mean_per_class"] = "accuracy"
    limit: int = 0


class ZeroShot:
    """The protocol over one opened source. Raises ValueError for a source without labels, or templates without `{}`."""

    def __init__(self, config: ZeroShotConfig):
        if (bool(config.classes) + bool(config.classes_file) + bool(config.rename)) > 1:
            raise ValueError("zero-shot got more than one of classes, classes_file and rename; give one")
        named = _names_in(config.classes_file) if config.classes_file else config.classes
        self._config, self._source = config, open_source(config.source)
        check_readable(self._source)
        if not self._source.classes:
            raise ValueError(f"source {self._source.name!r} has no labels; zero-shot classification needs them")
        self._classes = named or _renamed(self._source.classes, config.rename, self._source.name)
        if len(self._classes) != len(self._source.classes):
            raise ValueError(
                f"zero-shot got {len(self._classes)} class names for source {self._source.name!r}, whose labels have "
                f"{len(self._source.classes)}"
            )
        check_templates(config.templates)

    @property
    def labels(self) -> tuple[str, ...]:
        """The source's own names of its classes."""
        return self._source.classes

    def __call__(self, encoder: Encoder) -> Outcome:
        """top1, top5 (from six classes on) and mean_per_class."""
        found = encoder.source(self._source, captions=False, limit=self._config.limit)
        labelled = found.label >= 0
        if not labelled.any():
            raise ValueError(f"source {self._source.name!r} gave no readable labelled image; nothing to classify")
        weights = class_embeddings(encoder.texts, self._classes, self._config.templates)
        scores, labels = found.image[labelled] @ weights.T, found.label[labelled]
        number = len(self._classes)
        figures = {"top1": Figure(value=metrics.top_k_accuracy(scores, labels, 1), chance=1 / number)}
        if number > 5:
            figures["top5"] = Figure(value=metrics.top_k_accuracy(scores, labels, 5), chance=5 / number)
        mean = {"mean_per_class": Figure(value=metrics.mean_per_class_accuracy(scores, labels), chance=1 / number)}
        figures = mean | figures if self._config.metric == "mean_per_class" else figures | mean
        counts = {"images": int(labelled.sum()), "classes": number, "unreadable": found.bad_count}
        return Outcome(figures=figures, counts=counts)


def _names_in(file: str) -> tuple[str, ...]:
    if not Path(file).is_file():
        raise FileNotFoundError(f"{file} is not there; give a text file with a class name a line, in the labels' order")
    return tuple(line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip())


def _renamed(own: tuple[str, ...], rename: tuple[tuple[str, str], ...], source: str) -> tuple[str, ...]:
    table = dict(rename)
    if unknown := sorted(table.keys() - set(own)):
        raise ValueError(
            f"rename has {unknown[0]!r}, which is no class of source {source!r}: {', '.join(own[:5])}, ..."
        )
    return tuple(table.get(name, readable(name)) for name in own)
