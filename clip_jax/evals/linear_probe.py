"""Linear probe: logistic regression on the image tower's features before the projection. Radford et al. 2021, appendix A.3."""

import dataclasses
from typing import Literal

import numpy as np

from clip_jax import metrics
from clip_jax.data.digits import DigitsConfig
from clip_jax.data.source import Source, sample_uid
from clip_jax.data.sources import SourceConfig, open_source
from clip_jax.evals.embed import Embedded, Encoder, check_readable
from clip_jax.evals.logistic import best_strength, fitted
from clip_jax.evals.protocol import Figure, Outcome

LINEAR_PROBE_FIGURES = ("top1", "mean_per_class")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearProbeConfig:
    """source: labelled images to fit on. test: to measure on; None takes test_share of `source` for it. validation_share: of
    what is left to fit on, to choose the regularisation by; the last fit is on both. The same samples, by their uids, are
    set apart whatever the model. metric: the figure that speaks for this set, which comes first. limit: samples of each
    source, 0 for all."""

    source: SourceConfig = DigitsConfig()
    test: SourceConfig | None = None
    test_share: float = 0.3
    validation_share: float = 0.2
    metric: Literal["accuracy", "mean_per_class"] = "accuracy"
    limit: int = 0

    def __post_init__(self):
        for name in ("test_share", "validation_share"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: give a share between 0 and 1")


class LinearProbe:
    """The protocol over opened sources. Raises ValueError for sources without labels, or with different classes."""

    def __init__(self, config: LinearProbeConfig):
        self._config, self._source = config, open_source(config.source)
        self._test = None if config.test is None else open_source(config.test)
        for source in self._sources():
            check_readable(source)
            if not source.classes:
                raise ValueError(f"source {source.name!r} has no labels; a linear probe needs them")
        if self._test is not None and self._test.classes != self._source.classes:
            raise ValueError(
                f"sources {self._source.name!r} and {self._test.name!r} have different classes: "
                f"{', '.join(self._source.classes[:5])}, ... and {', '.join(self._test.classes[:5])}, ...; a probe that is "
                "fitted on the first cannot be measured on the second"
            )

    def _sources(self) -> list[Source]:
        return [self._source] if self._test is None else [self._source, self._test]

    def __call__(self, encoder: Encoder) -> Outcome:
        """top1 and mean_per_class on the test samples. Raises ValueError where a part is empty or lacks a class."""
        read = [encoder.features(source, limit=self._config.limit) for source in self._sources()]
        labelled = [_Labelled.of(found, source) for found, source in zip(read, self._sources(), strict=True)]
        rest, test = labelled if self._test is not None else labelled[0].cut("test", self._config.test_share)
        seen, held = rest.cut("validation", self._config.validation_share)
        for part, what in ((test, "test"), (held, "validation"), (seen, "fitting")):
            if not len(part.labels):
                raise ValueError(f"source {self._source.name!r} left no readable labelled image for {what}")
        self._check_classes(seen, np.union1d(rest.labels, test.labels))

        def accuracy(strength: float) -> float:
            return float(fitted(seen.features, seen.labels, strength).score(held.features, held.labels))

        probe = fitted(rest.features, rest.labels, best_strength(accuracy))
        scores, places = probe.predict_log_proba(test.features), np.searchsorted(probe.classes_, test.labels)
        chance = 1 / len(self._source.classes)
        figures = {
            "top1": Figure(value=metrics.top_k_accuracy(scores, places, 1), chance=chance),
            "mean_per_class": Figure(value=metrics.mean_per_class_accuracy(scores, places), chance=chance),
        }
        if self._config.metric == "mean_per_class":
            figures = dict(reversed(figures.items()))
        counts = {
            "images": len(test.labels),
            "fitted_on": len(rest.labels),
            "classes": len(self._source.classes),
            "unreadable": sum(found.bad_count for found in read),
        }
        return Outcome(figures=figures, counts=counts)

    def _check_classes(self, seen: "_Labelled", needed: np.ndarray) -> None:
        missing = np.setdiff1d(needed, seen.labels)
        if len(missing):
            names = ", ".join(self._source.classes[label] for label in missing[:5])
            raise ValueError(
                f"{len(missing)} classes of source {self._source.name!r} have no image to fit on ({names}); give more images "
                "(limit), or smaller shares for test and validation"
            )
        if len(np.unique(seen.labels)) < 2:
            raise ValueError(f"all images of source {self._source.name!r} are of one class; a linear probe needs two")


@dataclasses.dataclass(frozen=True)
class _Labelled:
    """Samples with labels. features: f32[N, F]. labels: i64[N]. uids: of N samples."""

    features: np.ndarray
    labels: np.ndarray
    uids: tuple[int, ...]

    @classmethod
    def of(cls, found: Embedded, source: Source) -> "_Labelled":
        rows = np.flatnonzero(found.label >= 0)
        return cls(found.image[rows], found.label[rows], tuple(source.uid(int(index)) for index in found.index[rows]))

    def cut(self, purpose: str, share: float) -> tuple["_Labelled", "_Labelled"]:
        """(the rest, about this share of the samples): the same ones for a purpose in every run and of every model."""
        chosen = np.array([sample_uid(purpose, str(uid)) < share * 2**64 for uid in self.uids], bool)
        return self._rows(~chosen), self._rows(chosen)

    def _rows(self, chosen: np.ndarray) -> "_Labelled":
        rows = np.flatnonzero(chosen)
        return _Labelled(self.features[rows], self.labels[rows], tuple(self.uids[row] for row in rows))
