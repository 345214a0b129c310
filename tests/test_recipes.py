"""The distillation recipes: each builds, says what it does and trains in small; of a full-size teacher come published sizes."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from clip_jax import run_folder, tree
from clip_jax.checkpoint import CheckpointConfig
from clip_jax.cli import train as command
from clip_jax.cli.configs import load_config, to_dataclass
from clip_jax.data.digits import DigitsConfig
from clip_jax.data.glyphs import GlyphsConfig
from clip_jax.data.images import Augmentation
from clip_jax.data.pipeline import ReadConfig
from clip_jax.data.sources import MixtureConfig, Weighted
from clip_jax.data.teacher_manifest import StoredViews
from clip_jax.evals.retrieval import RetrievalConfig
from clip_jax.experiment import Plan, TrainConfig
from clip_jax.interop.recognize import open_weights
from clip_jax.models.clip import abstract_params
from clip_jax.models.layers import Running
from clip_jax.models.presets import preset
from clip_jax.models.resnet import ResNetConfig
from clip_jax.models.vit import VisionConfig
from clip_jax.plain import to_dict
from clip_jax.students import half, has_synthetic, known, known_teachers
from clip_jax.teachers import LiveTeacher, StoreTeacher
from clip_jax.teaching import open_teachers
from tests.conftest import QUICK_COMPILE
from tests.random_store import write_random_store
from tests.small_teacher import TEACHER, write_teacher

ROOT = Path(__file__).parents[1]
VIEWS = StoredViews(count=2, seed=3, augmentation=Augmentation(scale=(0.5, 1.0), flip=0.5))
GLYPHS = GlyphsConfig(split="validation", limit=40, size=16)
WRITTEN = dataclasses.replace(GLYPHS, synthetic=2)
SMALL = tuple(
    f"--config.{change}"
    for change in ("batch_size=16", "steps=3", "read.workers=0", "log_every=1", "model.dtype=float32")
)


class Recipe(NamedTuple):
    """teacher: what stands for it in `place`. logs: losses. says: rows of a dry run."""

    teacher: str
    logs: tuple[str, ...]
    says: tuple[str, ...]


_STORED = "teacher store {place}/plain 16 1 its own"
RECIPES = {
    "distill": Recipe("plain", ("info_nce",), ("info_nce 1 the pairs",)),
    "distill_clip_kd": Recipe(
        "plain",
        ("info_nce", "crd", "fd", "icl"),
        ("info_nce 1 the pairs", "fd 2000 teacher", _STORED, "distill/teacher/icl_scale"),
    ),
    "distill_drrho": Recipe("plain", ("drrho",), ("drrho 1 teacher", _STORED)),
    "distill_embed_kd": Recipe(
        "digits",
        ("centroid", "classification"),
        ("centroid 0.5 teacher", "classification 1 teacher", "distill/teacher/centroid_projection/kernel (16, 16)"),
    ),
    "distill_ensemble": Recipe(
        "several",
        ("info_nce", "crd", "crd/live", "fd_cosine", "fd_cosine/stored"),
        (
            "crd 1 live, stored",
            "live live {place}/several/live 16 0.5 its own",
            "stored store {place}/several/stored 24 0.5 its own",
            "distill/live/image_projection/kernel (24, 16)",
        ),
    ),
    "distill_mobileclip": Recipe(
        "written",
        ("reinforcement", "reinforcement_synthetic"),
        ("reinforcement_synthetic 1 a, b_2", "b_2 store {place}/written/b.2 24 1 its own"),
    ),
    "distill_piccollage": Recipe(
        "images", ("image_cosine",), ("image_cosine 1 teacher", "text/ln_final/bias (32,) 32")
    ),
    "distill_self": Recipe(
        "teacher",
        ("info_nce", "csd_features", "csd_relations"),
        ("csd_features 0 to 1, steps 0 to 1 average", "average average the student 16 1 its own"),
    ),
    "distill_tinyclip": Recipe("plain", ("affinity",), ("affinity 1 teacher", _STORED)),
    "distill_tinyclip_masks": Recipe(
        "plain", ("affinity", "mask_penalty"), ("affinity 1 teacher", "masks/visual/heads (2, 2)")
    ),
}
TRAINED = ("distill_ensemble", "distill_piccollage", "distill_self")  # in every run of the tests


def marked(*quick: str) -> list[Any]:
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Teachers of all kinds, 16 pixels, 16 numbers an embedding."""
    folder = tmp_path_factory.mktemp("recipes")
    weights = write_teacher(folder / "teacher")
    theirs = {"weights_hash": tree.weights_hash(open_weights(str(weights)).params)}
    wide = dataclasses.replace(TEACHER, embed_dim=24)
    write_random_store(folder / "plain", weights, TEACHER, GLYPHS, **theirs)
    write_random_store(folder / "images", weights, TEACHER, GLYPHS, views=VIEWS, captions=False, **theirs)
    write_random_store(folder / "digits", weights, TEACHER, DigitsConfig(size=16), captions=False, **theirs)
    write_random_store(folder / "written" / "a", weights, TEACHER, WRITTEN, views=VIEWS, **theirs)
    write_random_store(folder / "written" / "b.2", weights, wide, WRITTEN, views=VIEWS)
    write_random_store(folder / "several" / "stored", weights, wide, GLYPHS)
    (folder / "several" / "live").symlink_to(weights)
    return folder


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """One device, quick compilation, a screen wide enough; what eight devices do is for the tests of the losses."""
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: first)
    monkeypatch.setattr(jax, "jit", functools.partial(jax.jit, compiler_options=QUICK_COMPILE))
    monkeypatch.setenv("COLUMNS", "200")


def recipe(name: str, teacher: Path | str) -> ConfigDict:
    return load_config(f"{ROOT / 'configs' / name}.py:{teacher}")


def given(name: str, place: Path) -> list[str]:
    return ["train", "--config", f"{ROOT / 'configs' / name}.py:{place / RECIPES[name].teacher}", *SMALL]


def planned(config: ConfigDict) -> Plan:
    experiment = to_dataclass(config)
    return Plan(experiment, open_teachers(experiment).offers)


def elements(params: Any) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def test_every_recipe_is_tried() -> None:
    assert set(RECIPES) == {path.stem for path in (ROOT / "configs").glob("distill*.py")}


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("name", marked(*RECIPES.keys() - {"distill_tinyclip_masks"}))
def test_a_recipe_says_what_it_would_do(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len((ROOT / "configs" / f"{name}.py").read_text().splitlines()) <= 60
    assert command.main([*given(name, place), "--dry_run"]) == 0
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for title in ("Parameters", "Objective", "Memory a device", "Schedule"):
        assert title in rows
    for expected in RECIPES[name].says:
        assert any(row.startswith(expected.format(place=place)) for row in rows), expected


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("name", marked(*TRAINED))
def test_a_recipe_trains(name: str, place: Path, tmp_path: Path) -> None:
    assert command.main([*given(name, place), "--workdir", str(tmp_path)]) == 0
    rows = [json.loads(row) for row in (tmp_path / run_folder.METRICS).read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert set(RECIPES[name].logs) <= set(rows[0])


@pytest.mark.usefixtures("quickly")
def test_the_quickstarts_student_has_its_store_beside_the_teacher(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run-store").symlink_to(place / "plain")
    config = f"{ROOT}/configs/quickstart_student.py:{tmp_path}/run"
    assert command.main(["train", "--config", config, *SMALL, "--config.optim.warmup_steps=1", "--dry_run"]) == 0
    assert f"{tmp_path}/run-store" in " ".join(capsys.readouterr().out.split())


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a teacher whose weights are nowhere."""
    folder = tmp_path_factory.mktemp("large")
    return write_random_store(folder / "store", folder / "absent", preset("ViT-B-32"), GLYPHS, views=VIEWS)


def test_piccollage_is_the_published_student(large: Path) -> None:
    config = recipe("distill_piccollage", large)
    plan = planned(config)
    assert elements(plan.state.params["visual"]) == pytest.approx(12.04e6, abs=0.005e6)
    whole = abstract_params(preset("ViT-B-32"))["text"]
    assert elements(plan.state.params["text"]) == elements(whole)
    image = plan.config.model.vision_cfg
    assert isinstance(image, VisionConfig)
    assert (image.width, image.layers, image.patch_size, image.width // image.head_width) == (384, 6, 32, 12)
    assert plan.config.model.embed_dim == 512
    assert plan.config.inherit.model.endswith("absent")
    config.model.vision_cfg.head_width = 16
    assert elements(planned(config).state.params["visual"]) == elements(plan.state.params["visual"])


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ("distill_embed_kd", "distill_ensemble")])
def test_recipes_of_a_full_size_teacher(name: str, large: Path) -> None:
    plan = planned(recipe(name, large))
    image = plan.config.model.vision_cfg
    assert (image.width, image.layers) == ((768, 12) if name == "distill_tinyclip_masks" else (384, 6))
    assert plan.config.model.dtype == "bfloat16"
    assert plan.config.batch_size == 1024
    assert plan.config.read.augmentation == VIEWS.augmentation
    assert plan.config.source == GLYPHS


def test_what_depends_on_the_steps_follows_them(place: Path) -> None:
    config = recipe("distill_self", place / "plain")
    config.steps = 1000
    experiment = to_dataclass(config)
    assert experiment.optim.warmup_steps == 100
    rising: Any = experiment.objective.weights["csd_features"]
    assert (rising.first, rising.last) == (100, 201)


def test_a_run_shares_its_settings_with_its_student(place: Path, tmp_path: Path) -> None:
    run = TrainConfig(
        model=dataclasses.replace(TEACHER, running=Running(scan=False)),
        steps=700,
        batch_size=32,
        source=GLYPHS,
        read=ReadConfig(workers=0, augmentation=VIEWS.augmentation),
        evals={"val": RetrievalConfig(source=GLYPHS)},
        checkpoint=CheckpointConfig(every=100, best="val/text_to_image_r1"),
    )
    (tmp_path / "run" / run_folder.CHECKPOINTS).mkdir(parents=True)
    (tmp_path / "run" / run_folder.CONFIG).write_text(json.dumps(to_dict(run)))
    store = write_random_store(tmp_path / "store", tmp_path / "run", TEACHER, GLYPHS)
    for teacher, augmentation in ((tmp_path / "run", VIEWS.augmentation), (store, None)):
        config = planned(recipe("distill_clip_kd", teacher)).config
        assert (config.steps, config.batch_size, config.model.dtype) == (700, 32, "float32")
        assert config.model.running == Running(scan=False)
        assert config.read == ReadConfig(workers=0, augmentation=augmentation)
        assert (config.evals, config.checkpoint) == (run.evals, run.checkpoint)
        assert config.optim.warmup_steps == 17
    assert isinstance(known(str(tmp_path / "run")).teacher, LiveTeacher)
    assert known(str(store)).teacher == StoreTeacher(path=str(store))


@pytest.mark.usefixtures("quickly")
def test_a_folder_of_teachers_may_hold_a_student(place: Path, tmp_path: Path) -> None:
    (tmp_path / "teacher").symlink_to(place / "plain")
    small = half(TEACHER)
    write_teacher(tmp_path / "student", config=small)
    assert list(known_teachers(str(tmp_path))) == ["teacher"]
    assert list(known_teachers(str(place / "written"))) == ["a", "b_2"]
    config = planned(recipe("distill_tinyclip", tmp_path)).config
    assert config.init_from == str(tmp_path / "student")
    assert config.inherit.model == ""
    assert config.model == small
    assert planned(recipe("distill_tinyclip", place / "plain")).config.inherit.model == str(place / "teacher")


@pytest.mark.parametrize(
    ("name", "image", "text", "embed_dim"),
    [
        ("ViT-B-32", (384, 6, 64), (256, 4, 6), 512),
        ("ViT-T-16", (96, 6, 32), (192, 3, 6), 384),  # three heads: half as wide, not half as many
        ("tiny", (64, 2, 32), (64, 2, 2), 128),
        ("ViT-B-16-SigLIP", (384, 6, 64), (384, 6, 6), 384),  # its channels are its embedding
    ],
)
def test_half_a_model(name: str, image: tuple[int, ...], text: tuple[int, ...], embed_dim: int) -> None:
    model = half(preset(name))
    vision = model.vision_cfg
    assert isinstance(vision, VisionConfig)
    assert (vision.width, vision.layers, vision.head_width) == image
    assert (model.text_cfg.width, model.text_cfg.heads, model.text_cfg.layers) == text
    assert model.embed_dim == embed_dim
    assert elements(abstract_params(model)) < 0.6 * elements(abstract_params(preset(name)))


def test_half_a_resnet() -> None:
    model = half(preset("RN50"))
    assert model.vision_cfg == ResNetConfig(layers=(2, 2, 3, 2), width=32)
    abstract_params(model)


def test_generated_captions_are_found_in_mixtures() -> None:
    for source, found in ((WRITTEN, True), (GLYPHS, False)):
        assert has_synthetic(MixtureConfig(parts=(Weighted(weight=1, source=source),))) == found
    assert not has_synthetic(DigitsConfig())


def test_what_is_no_teacher(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent does not exist; give a teacher's store"):
        recipe("distill_clip_kd", tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no weights and no configuration"):
        recipe("distill_clip_kd", tmp_path / "empty")
