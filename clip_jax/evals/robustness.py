"""Effective robustness: accuracy under a natural shift, less what models trained on the unshifted set would have there.

Taori et al. 2020, section 3: over standard models the logits of both accuracies lie on a line; what a model has above it is its
effective robustness. CLIP is measured so in Radford et al. 2021, section 3.3.
"""

import dataclasses
import logging
import re

import numpy as np
from scipy.special import expit, logit

from clip_jax.data.sources import SourceConfig
from clip_jax.data.tfds import TfdsConfig
from clip_jax.evals.clip_datasets import IMAGENET_CLASSES, IMAGENET_TEMPLATES
from clip_jax.evals.embed import Encoder
from clip_jax.evals.protocol import Figure, Outcome
from clip_jax.evals.zero_shot import ZeroShot, ZeroShotConfig

ROBUSTNESS_FIGURES = ("effective_robustness", "top1", "shifted_top1", "expected_top1")

_log = logging.getLogger(__name__)

# (ImageNet's validation set, the shifted set), top-1 in per cent, of torchvision's first weights of VGG, ResNet, DenseNet and
# Inception, which saw ImageNet alone; as measured for pytorch-image-models (its results/ tables).
BASELINES: dict[str, tuple[tuple[float, float], ...]] = {
    "imagenet_v2": (
        (69.022, 55.820),
        (69.760, 57.170),
        (69.932, 57.140),
        (70.382, 57.410),
        (71.588, 58.960),
        (71.592, 58.830),
        (72.378, 59.710),
        (73.370, 60.770),
        (74.216, 61.870),
        (74.764, 62.940),
        (75.900, 64.790),
        (76.130, 63.330),
        (77.286, 65.270),
        (77.358, 65.850),
        (77.376, 65.700),
        (77.434, 66.120),
    ),
    "imagenet_sketch": (
        (69.023, 15.723),
        (69.760, 20.230),
        (69.932, 16.096),
        (70.382, 17.399),
        (71.588, 17.798),
        (71.592, 17.536),
        (72.378, 17.941),
        (73.370, 19.945),
        (74.215, 21.623),
        (74.764, 23.840),
        (76.130, 24.090),
        (77.618, 25.467),
        (78.480, 25.310),
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobustnessConfig:
    """source, shifted: labelled images of the same classes, in the same order. baselines: a name in BASELINES, of which standard
    models the line is; outside their accuracies it is extrapolated. classes_file, templates: as of ZeroShotConfig. limit:
    first images of each only, 0 for all.

    ImageNet-R and -A hold 200 of the classes, which both sets would have to be cut to, and have no baselines here.
    """

    source: SourceConfig = TfdsConfig(name="imagenet2012", split="validation", label_key="label")
    shifted: SourceConfig = TfdsConfig(name="imagenet_v2", split="test", label_key="label")
    baselines: str = "imagenet_v2"
    classes_file: str = IMAGENET_CLASSES
    templates: tuple[str, ...] = IMAGENET_TEMPLATES
    limit: int = 0


class Robustness:
    """The protocol over two opened sources. Raises ValueError or FileNotFoundError as ZeroShot does, for no such baselines, and
    for sources of other classes."""

    def __init__(self, config: RobustnessConfig):
        if config.baselines not in BASELINES:
            raise ValueError(f"no baselines {config.baselines!r}; there are {', '.join(BASELINES)}")
        self._config = config
        self._plain, self._shifted = (
            ZeroShot(
                ZeroShotConfig(
                    source=source,
                    classes_file=config.classes_file,
                    templates=config.templates,
                    limit=config.limit,
                )
            )
            for source in (config.source, config.shifted)
        )
        ours, theirs = self._plain.labels, self._shifted.labels
        coded = [all(re.fullmatch(r"n\d{8}", name) for name in names) for names in (ours, theirs)]
        if ours != theirs and (
            not config.classes_file or all(coded)
        ):  # with a file, one set's names may be its numbers
            first = next(
                (pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]), (len(ours), len(theirs))
            )
            raise ValueError(
                f"source and shifted have other classes, first {first[0]} and {first[1]}: robustness is measured on the same "
                "ones in the same order"
            )

    def __call__(self, encoder: Encoder) -> Outcome:
        """ROBUSTNESS_FIGURES; effective_robustness is a difference of shares, above 0 for what holds up better than expected."""
        plain, shifted = self._plain(encoder), self._shifted(encoder)
        accuracy, reached = plain.figures["top1"], shifted.figures["top1"]
        low, high = (pick(x for x, _ in BASELINES[self._config.baselines]) for pick in (min, max))
        if not low <= 100 * accuracy.value <= high:
            _log.warning(
                "robustness: an accuracy of %.1f%% is outside the standard models' (%.1f to %.1f%%): the line is extrapolated",
                100 * accuracy.value,
                low,
                high,
            )
        above = expected(accuracy.value, BASELINES[self._config.baselines])
        figures = {
            "effective_robustness": Figure(value=reached.value - above, chance=0.0),
            "top1": accuracy,
            "shifted_top1": reached,
            "expected_top1": Figure(value=above, chance=None),
        }
        counts = {
            "images": plain.counts["images"] + shifted.counts["images"],
            "unreadable": plain.counts["unreadable"] + shifted.counts["unreadable"],
        }
        return Outcome(figures=figures, counts=counts)


def expected(accuracy: float, baselines: tuple[tuple[float, float], ...]) -> float:
    """A standard model's share under the shift, by its share without: the least-squares line through the baselines' logits."""
    plain, shifted = logit(np.array(baselines) / 100).T
    slope, intercept = np.polyfit(plain, shifted, 1)
    return float(expit(slope * logit(accuracy) + intercept))
