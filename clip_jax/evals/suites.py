"""Named suites of evaluations that need no run's config: what `clip-jax evaluate MODEL --suite NAME` measures."""

import dataclasses
import difflib
import os
from collections.abc import Mapping
from typing import Any

from clip_jax.data.digits import DigitsConfig
from clip_jax.data.glyphs import GlyphsConfig
from clip_jax.data.table import TableConfig
from clip_jax.data.tfds import TfdsConfig
from clip_jax.evals.agreement import AgreementConfig
from clip_jax.evals.clip_datasets import CLIP_DATASETS, linear_probe, zero_shot
from clip_jax.evals.colors import ColorsConfig
from clip_jax.evals.fairface import FairFaceConfig
from clip_jax.evals.linear_probe import LinearProbeConfig
from clip_jax.evals.order import OrderConfig
from clip_jax.evals.protocol import Evaluation, OpenTeacher
from clip_jax.evals.relations import RelationsConfig
from clip_jax.evals.retrieval import RetrievalConfig
from clip_jax.evals.robustness import RobustnessConfig
from clip_jax.evals.senses import SensesConfig
from clip_jax.evals.suite import EvalConfig, open_evaluations
from clip_jax.evals.unseen import UnseenConfig
from clip_jax.evals.winoground import WinogroundConfig
from clip_jax.evals.zero_shot import ZeroShotConfig

_DESIGNERS = GlyphsConfig(split="designers", limit=500)
_DIGIT_TEMPLATES = ("a handwritten {}", "the number {}", "a photo of the number {}.")

# Evaluations with an empty `teacher` take that of --teacher; those that need one are skipped without it. Folders and files
# are below --data_dir, and data sets of TFDS are looked for there.
SUITES: dict[str, dict[str, EvalConfig]] = {
    "offline": {  # nothing to fetch: the embedded drawings and scikit-learn's digits
        "designers": RetrievalConfig(source=_DESIGNERS, first_caption=True),
        "concepts": RetrievalConfig(source=GlyphsConfig(split="concepts", limit=500), first_caption=True),
        "shapes": RetrievalConfig(
            source=GlyphsConfig(split="designers", limit=500, colors="black_on_white"), first_caption=True
        ),
        "colors": ColorsConfig(source=_DESIGNERS),
        "digits": ZeroShotConfig(source=DigitsConfig(), templates=_DIGIT_TEMPLATES),
        "digits_probe": LinearProbeConfig(source=DigitsConfig()),
        "agreement": AgreementConfig(teacher="", source=_DESIGNERS),
        "senses": SensesConfig(teacher="", source=_DESIGNERS),
        "unseen": UnseenConfig(teacher="", source=_DESIGNERS, trained=GlyphsConfig(split="train"), trained_limit=2000),
    },
    "order": {  # of words
        "winoground": WinogroundConfig(),
        "relations": RelationsConfig(),
        "attributes": RelationsConfig(part="attribution"),
        "coco_order": OrderConfig(source=TfdsConfig(name="coco_captions", split="test"), stored="coco_order.json"),
        "flickr_order": OrderConfig(
            source=TableConfig(path="flickr30k_test.csv", name="flickr30k"), stored="flickr_order.json"
        ),
    },
    "robustness": {
        "imagenet_v2": RobustnessConfig(),
        "imagenet_sketch": RobustnessConfig(
            shifted=TfdsConfig(name="imagenet_sketch", split="test", label_key="label"), baselines="imagenet_sketch"
        ),
    },
    "faces": {"fairface": FairFaceConfig()},
    "clip": {name: zero_shot(name) for name in CLIP_DATASETS},
    "clip_probe": {f"{name}_probe": linear_probe(name) for name in CLIP_DATASETS},
}


def suite(name: str, *, teacher: str = "", data_dir: str = "") -> dict[str, EvalConfig]:
    """The evaluations of a suite. teacher: a model, as clip_jax.load takes it, "" for none. data_dir: where prepared data
    lie; "" for TFDS's own folder, and the working folder for all else. Raises ValueError that lists the suites."""
    if name not in SUITES:
        near = difflib.get_close_matches(name, SUITES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no suite {name!r}; there are {', '.join(SUITES)}{hint}")
    return {key: _placed(config, teacher, data_dir) for key, config in SUITES[name].items()}


def open_available(
    configs: Mapping[str, EvalConfig], *, load: OpenTeacher
) -> tuple[dict[str, Evaluation], dict[str, str]]:
    """Those that can be opened, and why others cannot, by name: data that are not here, or a teacher that is not given.

    Raises ValueError with all reasons where none can be opened.
    """
    opened: dict[str, Evaluation] = {}
    skipped: dict[str, str] = {}
    for name, config in configs.items():
        try:
            opened |= open_evaluations({name: config}, load=load)
        except (ValueError, FileNotFoundError) as error:
            skipped[name] = str(error).removeprefix(f"evals.{name}: ")
    if not opened:
        raise ValueError("no evaluation of the suite can be opened:\n" + skipped_words(skipped))
    return opened, skipped


def skipped_words(skipped: Mapping[str, str]) -> str:
    """A line each, with what to do."""
    return "\n".join(f"  {name}: {reason}" for name, reason in skipped.items())


def _placed(config: Any, teacher: str, data_dir: str) -> Any:
    """With the teacher and the places of data filled in, in all parts of a config."""
    if isinstance(config, tuple):
        return tuple(_placed(one, teacher, data_dir) for one in config)
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return config
    given = {
        field.name: _placed(getattr(config, field.name), teacher, data_dir) for field in dataclasses.fields(config)
    }
    if isinstance(config, TfdsConfig):
        given["data_dir"] = data_dir
    for key in ("folder", "classes_file", "path", "stored"):
        if given.get(key):
            given[key] = os.path.join(data_dir, given[key])
    if given.get("teacher") == "":
        given["teacher"] = teacher
    return type(config)(**given)
