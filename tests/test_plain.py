"""Dataclasses to plain dicts and back, and what is said of a wrong one."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

import pytest

from clip_jax.data import sources
from clip_jax.data.digits import DigitsConfig
from clip_jax.data.glyphs import GlyphsConfig
from clip_jax.data.sources import MixtureConfig, Weighted
from clip_jax.data.table import TableConfig
from clip_jax.data.tfds import TfdsConfig
from clip_jax.data.webdataset import WebDatasetConfig
from clip_jax.evals import suite
from clip_jax.evals.agreement import AgreementConfig
from clip_jax.evals.colors import ColorsConfig
from clip_jax.evals.fairface import FairFaceConfig
from clip_jax.evals.linear_probe import LinearProbeConfig
from clip_jax.evals.order import OrderConfig
from clip_jax.evals.relations import RelationsConfig
from clip_jax.evals.retrieval import RetrievalConfig
from clip_jax.evals.robustness import RobustnessConfig
from clip_jax.evals.senses import SensesConfig
from clip_jax.evals.showcase import ShowcaseConfig
from clip_jax.evals.unseen import UnseenConfig
from clip_jax.evals.winoground import WinogroundConfig
from clip_jax.evals.zero_shot import ZeroShotConfig
from clip_jax.experiment import TrainConfig
from clip_jax.models import presets
from clip_jax.objectives import ObjectiveConfig
from clip_jax.optim import OptimConfig
from clip_jax.plain import from_dict, from_json, to_dict
from clip_jax.sharding import MeshConfig

SOURCES = (
    GlyphsConfig(split="designers", limit=7),
    WebDatasetConfig(urls="train-{00..10}.tar", name="web", json_keys=("caption",)),
    WebDatasetConfig(urls=("a.tar", "b.tar"), name="two"),
    TableConfig(path="pairs.csv", name="pairs", classes=("cat", "dog")),
    TfdsConfig(name="coco_captions", split="test"),
    DigitsConfig(size=16, dark_on_light=False),
)
MIXTURE = MixtureConfig(
    parts=(
        Weighted(weight=0.5, source=SOURCES[0]),
        Weighted(weight=2.0, source=MixtureConfig(parts=(Weighted(weight=1.0, source=SOURCES[3]),))),
    )
)
EVALS = {
    "val": RetrievalConfig(source=SOURCES[4], limit=5, first_caption=True),
    "digits": ZeroShotConfig(source=SOURCES[5], classes=("0", "1"), templates=("a {}", "the {}")),
    "probe": LinearProbeConfig(source=SOURCES[3], test=SOURCES[0], validation_share=0.1),
    "like_teacher": AgreementConfig(teacher="runs/teacher", source=SOURCES[0], queries=("a bell",), top=10),
    "colors": ColorsConfig(teacher="runs/teacher", limit=90),
    "pictures": ShowcaseConfig(source=SOURCES[1], queries=("a red heart",)),
    "senses": SensesConfig(teacher="runs/teacher", source=SOURCES[0]),
    "unseen": UnseenConfig(teacher="runs/teacher", source=SOURCES[0], trained=SOURCES[1]),
    "winoground": WinogroundConfig(folder="w", limit=5),
    "relations": RelationsConfig(part="attribution", least=3),
    "order": OrderConfig(source=SOURCES[2], seed=3),
    "faces": FairFaceConfig(teacher="runs/teacher"),
    "robustness": RobustnessConfig(source=SOURCES[4], shifted=SOURCES[5], templates=("a {}",)),
}


@pytest.mark.parametrize("source", [*SOURCES, MIXTURE], ids=lambda source: type(source).__name__)
def test_round_trip(source):
    config = TrainConfig(
        source=source,
        model=presets.preset("ViT-H-14-quickgelu"),
        evals=EVALS,
        objective=ObjectiveConfig(weights={"info_nce": 2.0}),
        optim=OptimConfig(freeze=("visual/.*", "text/.*")),
        mesh=MeshConfig(rules=((".*kernel", (None, "fsdp")),)),
    )
    plain = to_dict(config)
    assert from_dict(TrainConfig, plain) == config
    assert from_json(TrainConfig, json.dumps(plain), "config.json") == config


def test_every_kind_takes_part_in_the_round_trip():
    assert {type(source) for source in (*SOURCES, MIXTURE)} == set(sources.KINDS.values())
    assert {type(evaluation) for evaluation in EVALS.values()} == set(suite.KINDS.values())


def test_absent_fields_take_their_defaults():
    assert from_dict(TrainConfig, {}) == TrainConfig()
    assert from_dict(TrainConfig, {"source": {"kind": "digits"}}).source == DigitsConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shapes:
    """One field of each type that configs use."""

    number: int = 0
    share: float = 0.0
    flag: bool = False
    text: str = ""
    choice: Literal["red", "green"] = "red"
    pair: tuple[int, str] = (0, "")
    many: tuple[float, ...] = ()
    maybe: int | None = None
    either: str | tuple[str, ...] = ""
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    anything: Any = None


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"share": 2}, Shapes(share=2.0)),
        ({"many": [1, 2.5]}, Shapes(many=(1.0, 2.5))),
        ({"pair": [3, "x"]}, Shapes(pair=(3, "x"))),
        ({"maybe": None}, Shapes()),
        ({"maybe": 4}, Shapes(maybe=4)),
        ({"either": "a"}, Shapes(either="a")),
        ({"either": ["a", "b"]}, Shapes(either=("a", "b"))),
        ({"weights": {"a": 1}}, Shapes(weights={"a": 1.0})),
        ({"anything": [{}]}, Shapes(anything=[{}])),
    ],
    ids=str,
)
def test_what_is_taken(given, wanted):
    found = from_dict(Shapes, given)
    assert found == wanted
    assert repr(found) == repr(wanted)  # 2 == 2.0, but they are not alike


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nummer": 1}, "c has no 'nummer' .did you mean 'number'..; there are anything, choice, either"),
        ({"xyz": 1}, "c has no 'xyz'; there are"),
        ({"number": "1"}, "c.number is '1', a str; expected int"),
        ({"number": True}, "c.number is True, a bool; expected int"),
        ({"number": 1.0}, "c.number is 1.0, a float; expected int"),
        ({"number": None}, "c.number is None, a NoneType; expected int"),
        ({"share": True}, "c.share is True, a bool; expected float"),
        ({"share": "2"}, "c.share is '2', a str; expected float"),
        ({"flag": 1}, "c.flag is 1, a int; expected bool"),
        ({"text": 1}, "c.text is 1, a int; expected str"),
        ({"choice": "gren"}, "c.choice is 'gren'; allowed are 'red', 'green' .did you mean 'green'"),
        ({"pair": (1,)}, r"c.pair is \(1,\); expected 2 values"),
        ({"pair": (1, "x", 2)}, "c.pair is .*; expected 2 values"),
        ({"pair": ("x", 1)}, r"c.pair\[0\] is 'x', a str; expected int"),
        ({"many": 1.0}, "c.many is 1.0; expected a tuple"),
        ({"many": "12"}, "c.many is '12'; expected a tuple"),
        ({"many": (1, "x")}, r"c.many\[1\] is 'x', a str; expected float"),
        ({"maybe": "x"}, "c.maybe is 'x', a str; expected int"),
        ({"either": 3}, "c.either is 3; expected one of .'str', 'tuple"),
        ({"weights": [1]}, r"c.weights is \[1\]; expected names with values"),
        ({"weights": {"a": "x"}}, "c.weights.a is 'x', a str; expected float"),
        ("text", "c is 'text'; expected the fields of Shapes"),
    ],
    ids=str,
)
def test_what_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        from_dict(Shapes, given, "c")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optim": {"learning_rate": 1}}, "config.optim has no 'learning_rate'"),
        ({"optm": {}}, "config has no 'optm' .did you mean 'optim'"),
        ({"model": {"vision_cfg": {"widht": 1}}}, "config.model.vision_cfg has no 'widht' .did you mean 'width'"),
        ({"source": {"kind": "glyph"}}, "config.source.kind is 'glyph'; there are digits, .* .did you mean 'glyphs'"),
        ({"source": {}}, "config.source.kind is None; there are digits"),
        ({"source": "glyphs"}, "config.source.kind is 'glyphs'; there are"),
        ({"source": {"kind": "table", "name": "x"}}, "config.source needs 'path'"),
        ({"source": {"kind": "digits", "split": "x"}}, "config.source has no 'split'"),
        ({"source": {"kind": "mixture", "parts": [{"weight": 1}]}}, r"config.source.parts\[0\] needs 'source'"),
        ({"evals": {"v": {"kind": "retreival"}}}, "config.evals.v.kind is 'retreival'.*did you mean 'retrieval'"),
        (
            {"evals": {"v": {"kind": "digits"}}},
            "config.evals.v.kind is 'digits'; there are agreement, colors, fairface, linear_probe, order, relations, retrieval",
        ),
    ],
    ids=str,
)
def test_what_a_train_config_refuses(given, message):
    with pytest.raises(ValueError, match=message):
        from_dict(TrainConfig, given)


def test_a_kind_is_checked_where_there_is_no_choice():
    assert from_dict(GlyphsConfig, {"kind": "glyphs"}) == GlyphsConfig()
    with pytest.raises(ValueError, match="kind is 'digits'; only 'glyphs' is allowed"):
        from_dict(GlyphsConfig, {"kind": "digits"})


def test_broken_json():
    with pytest.raises(ValueError, match=r"config.json is not JSON"):
        from_json(TrainConfig, "{", "config.json")
