"""Training with teachers, end to end: stored, live and the student's own average; resumed, handed on, and refused."""

import dataclasses
import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import clip_jax
from clip_jax import run_folder, sharding, tree
from clip_jax import train as train_module
from clip_jax.checkpoint import Checkpoints
from clip_jax.cli.configs import to_dataclass
from clip_jax.data.centroids import class_centroids
from clip_jax.data.digits import Digits, DigitsConfig
from clip_jax.data.images import Augmentation
from clip_jax.data.pipeline import TrainStream
from clip_jax.data.source import Source
from clip_jax.data.sources import open_source
from clip_jax.data.teacher_manifest import MANIFEST, read_manifest
from clip_jax.data.teacher_shards import shard_name
from clip_jax.data.teacher_store import TeacherStore
from clip_jax.evals.embed import eval_target
from clip_jax.experiment import Plan, TrainConfig
from clip_jax.inherit import InheritConfig, TowerChoice
from clip_jax.init_from import inheriting_state, state_from
from clip_jax.interop.convert import convert
from clip_jax.interop.recognize import open_weights
from clip_jax.loading import load_encoder
from clip_jax.model import Model
from clip_jax.models.clip import towers_of
from clip_jax.models.resnet import ResNetConfig
from clip_jax.objectives import ObjectiveConfig, Ramp
from clip_jax.plain import from_json, to_dict
from clip_jax.runs import load_run, read_config
from clip_jax.sharding import MeshConfig
from clip_jax.teachers import AverageTeacher, LiveTeacher, Offer, StoreTeacher
from clip_jax.teaching import Teachers, open_teachers
from clip_jax.terms import TermOptions
from clip_jax.train import train
from tests import small_config
from tests.handmade_store import rewrite
from tests.small_store import SAMPLES, write_store
from tests.small_teacher import TEACHER, write_teacher

SHARP = dataclasses.replace(TEACHER, init_logit_scale=math.log(100))  # as published teachers are
WRITTEN = dataclasses.replace(SAMPLES, synthetic=2)
BOTH = ("crd", "affinity", "icl")


@pytest.fixture(scope="module", autouse=True)
def quick_compile() -> Iterator[None]:
    """The programs of these runs are compiled once and run for a few steps."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two teachers of 16 numbers an embedding, and a store of the first."""
    folder = tmp_path_factory.mktemp("teaching")
    write_teacher(folder / "teacher", config=SHARP)
    write_teacher(folder / "other", seed=1, config=SHARP)
    write_store(folder / "store", clip_jax.load(folder / "teacher", dtype="bfloat16"))
    return folder


@pytest.fixture(scope="module")
def config(place: Path) -> TrainConfig:
    """Six steps of a student of 32 numbers with three teachers."""
    small = to_dataclass(small_config.get_config())
    vision = dataclasses.replace(small.model.vision_cfg, patch_dropout=0.0)
    weights = {
        "info_nce": Ramp(start=1.0, end=0.5, last=4),
        "crd": 1.0,
        "affinity": 0.5,
        "icl": 0.5,
        "csd_features": 1.0,
    }
    return dataclasses.replace(
        small,
        steps=6,
        source=SAMPLES,
        model=dataclasses.replace(small.model, vision_cfg=vision),
        read=dataclasses.replace(small.read, augmentation=None),
        objective=ObjectiveConfig(weights={**weights, "csd_relations": 1.0}),
        teachers={
            "stored": StoreTeacher(path=str(place / "store"), losses=BOTH),
            "live": LiveTeacher(model=str(place / "teacher"), losses=BOTH),
            "own": AverageTeacher(losses=("csd_features", "csd_relations")),
        },
        checkpoint=dataclasses.replace(small.checkpoint, every=2),
        evals={},
        eval_every=0,
    )


@pytest.fixture(scope="module")
def finished(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that run, done without interruption, and compiled once. Tests must not change it: they copy."""
    plans: list[Plan] = []

    class Seen(Plan):
        def __init__(self, config: TrainConfig, offers: Mapping[str, Offer]):
            super().__init__(config, offers)
            plans.append(self)

    folder = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "Plan", Seen)
        assert train(config, folder).complete
    assert [plan.step._cache_size() for plan in plans] == [1]
    return folder


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / run_folder.METRICS).read_text().splitlines()]


def restored(config: TrainConfig, folder: Path) -> Any:
    checkpoints = Checkpoints(folder / run_folder.CHECKPOINTS, config.checkpoint)
    try:
        return checkpoints.restore(Plan(config, open_teachers(config).offers).state)
    finally:
        checkpoints.close()


def test_a_live_teacher_says_what_its_store_says(finished: Path) -> None:
    for row in rows(finished):
        for name in BOTH[:2]:
            assert row[f"{name}/live"] == pytest.approx(row[f"{name}/stored"], rel=5e-3), (row["step"], name)  # bf16
            assert row[name] == pytest.approx(row[f"{name}/live"] + row[f"{name}/stored"], rel=1e-5)
        assert row["icl/live"] != row["icl/stored"]  # each has heads of its own


def test_the_student_teaches_itself_nothing_at_first(finished: Path) -> None:
    written = rows(finished)
    assert written[0]["csd_features"] == pytest.approx(0, abs=1e-6)
    assert written[0]["csd_relations"] == pytest.approx(0, abs=1e-6)
    assert min(row["csd_relations"] for row in written[1:]) > 1e-5


def test_a_stopped_run_goes_on_bit_for_bit(finished: Path, config: TrainConfig, tmp_path: Path) -> None:
    assert not train(config, tmp_path / "run", stop=lambda step: step == 3).complete
    assert train(config, tmp_path / "run").complete
    assert (tmp_path / "run" / run_folder.METRICS).read_bytes() == (finished / run_folder.METRICS).read_bytes()
    left, right = (restored(config, folder) for folder in (tmp_path / "run", finished))
    assert {path.split("/")[1] for path in tree.paths(left.params) if path.startswith("distill/")} == {"stored", "live"}
    assert tree.paths(left.ema) == tree.paths(left.params)
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_config_is_read_back(finished: Path, config: TrainConfig) -> None:
    assert dataclasses.replace(read_config(finished), model=config.model) == config
    assert from_json(TrainConfig, json.dumps(to_dict(config)), "here") == config


def test_heads_stay_behind_when_a_run_is_handed_on(finished: Path, config: TrainConfig, tmp_path: Path) -> None:
    state = restored(config, finished)
    for weights, params in (("ema", state.ema), ("raw", state.params)):
        run = load_run(finished, weights=weights)
        assert run.params.keys() == {"visual", "text", "logit_scale"}
        for one, other in zip(jax.tree.leaves(run.params), jax.tree.leaves(towers_of(params)), strict=True):
            np.testing.assert_array_equal(one, other)
    model = clip_jax.load(finished)
    assert load_encoder(finished).config.embed_dim == 32
    convert(open_weights(finished), tmp_path / "there", "open_clip")
    assert "(1 to 0.5) x info_nce, 1 x crd" in (tmp_path / "there" / "README.md").read_text()
    told = clip_jax.load(tmp_path / "there").encode_text(["a red house"])
    np.testing.assert_allclose(told, model.encode_text(["a red house"]), atol=1e-5)
    plan = Plan(config, open_teachers(config).offers)
    begun = state_from(plan, str(finished)).params  # and a new run grows its own
    np.testing.assert_array_equal(begun["visual"]["proj"]["kernel"], state.ema["visual"]["proj"]["kernel"])
    assert tree.misfits(begun, plan.state.params) == []
    assert float(begun["distill"]["live"]["icl_scale"]) == pytest.approx(math.log(1 / 0.07))


def test_a_run_goes_on_with_the_teacher_it_began_with(
    finished: Path, place: Path, config: TrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    shutil.copytree(place / "store", tmp_path / "moved")
    known = json.loads((tmp_path / "run" / run_folder.TEACHERS).read_text())
    weights = read_manifest(place / "store").teacher.weights_hash
    manifest = hashlib.blake2b((place / "store" / MANIFEST).read_bytes(), digest_size=16).hexdigest()
    assert known == {"stored": {"weights": weights, "manifest": manifest}, "live": {"weights": weights}}
    write_store(tmp_path / "other", clip_jax.load(place / "other", dtype="bfloat16"))
    write_store(tmp_path / "finer", clip_jax.load(place / "teacher", dtype="bfloat16"), dtype="float32")

    def with_teacher(name: str, **fields: Any) -> TrainConfig:
        teacher = dataclasses.replace(config.teachers[name], **fields)
        return dataclasses.replace(config, teachers={**config.teachers, name: teacher})

    def at(path: Path) -> TrainConfig:
        return with_teacher("stored", path=str(path))

    with caplog.at_level(logging.WARNING):
        assert train(at(tmp_path / "moved"), tmp_path / "run").complete
    assert "teachers.stored.path" in caplog.text
    then = rf"began with another teacher 'stored': weights {weights[:12]}, manifest {manifest[:12]}; now it is"
    for store, also in (("other", "weights (?!{0})"), ("finer", "weights {0}, manifest (?!{1})")):
        with pytest.raises(ValueError, match=f"{then} {also.format(weights[:12], manifest[:12])}"):
            train(at(tmp_path / store), tmp_path / "run")
    with pytest.raises(ValueError, match=rf"another teacher 'live': weights {weights[:12]}; now it is weights "):
        train(with_teacher("live", model=str(place / "other")), tmp_path / "run")


# What is done to a copy of the store, or to the config; and what is said.
Change = Callable[[Path, TrainConfig], TrainConfig]


def _same(change: Callable[[Path], object]) -> Change:
    def changed(store: Path, config: TrainConfig) -> TrainConfig:
        change(store)
        return config

    return changed


def _with(**fields: Any) -> Change:
    return lambda store, config: dataclasses.replace(config, **fields)


def _scaled(factor: float) -> Callable[[dict[str, np.ndarray]], object]:
    def scale(tensors: dict[str, np.ndarray]) -> None:
        kind = tensors["image"].dtype
        tensors["image"][2] = (tensors["image"][2].astype(np.float32) * factor).astype(kind)

    return scale


def _repeat(store: Path) -> None:
    first = TeacherStore(store)._shard(0)["uid"][3]
    rewrite(store, 1, lambda tensors: tensors["uid"].__setitem__(0, first))


def _flip(store: Path) -> None:
    path = store / shard_name(1)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _forget_last_captions(store: Path) -> None:
    """The two of each sample that are the generated ones of WRITTEN."""

    def forget(tensors: dict[str, np.ndarray]) -> None:
        for end in tensors["caption_start"][1:]:
            tensors["caption_key"][end - 2 : end] = 0

    for shard in range(3):
        rewrite(store, shard, forget)


def _read(config: TrainConfig, augmentation: Augmentation | None) -> TrainConfig:
    return dataclasses.replace(config, read=dataclasses.replace(config.read, augmentation=augmentation))


def _goal(weights: dict[str, Any], **options: Any) -> Change:
    def changed(store: Path, config: TrainConfig) -> TrainConfig:
        objective = ObjectiveConfig(weights=weights, options=TermOptions(**options))
        return dataclasses.replace(config, objective=objective)

    return changed


def _teachers(**teachers: Any) -> Change:
    return lambda store, config: dataclasses.replace(config, teachers={**config.teachers, **teachers})


def _resnet(store: Path, config: TrainConfig) -> TrainConfig:
    vision = ResNetConfig(layers=(1, 1, 1, 1), width=8, image_size=32)
    model = dataclasses.replace(config.model, vision_cfg=vision)
    return dataclasses.replace(_goal({"mfd": 1.0})(store, config), model=model)


BAD: dict[str, tuple[Change, str]] = {
    "another dataset": (
        _with(source=dataclasses.replace(SAMPLES, split="designers")),
        r"teachers.stored: .* is the store of another data set: it lacks 40 of the 40 samples of 'glyphs'",
    ),
    "more samples": (_with(source=dataclasses.replace(SAMPLES, limit=41)), "another data set: it lacks"),
    "augmented": (
        lambda store, config: _read(config, Augmentation()),
        "teachers.stored: .* holds embeddings of plain images, but training augments them; set",
    ),
    "missing shard": (
        _same(lambda store: (store / shard_name(1)).unlink()),
        "1 of 3 shards are missing, e.g. shard-00001.safetensors",
    ),
    "no manifest": (_same(lambda store: (store / "manifest.json").unlink()), "embedding was not finished"),
    "duplicate uid": (_same(_repeat), "comes twice, in shard-00000.safetensors and shard-00001.safetensors"),
    "flipped byte": (_same(_flip), "shard-00001.safetensors is damaged: its checksum is"),
    "NaN": (_same(lambda store: rewrite(store, 1, _scaled(math.nan))), "image row 2 is not finite"),
    "norm": (_same(lambda store: rewrite(store, 1, _scaled(1.05))), r"image row 2 has norm 1\.05"),
    "sizes": (_goal({"fd": 1.0}, projection="none"), "embeddings of 32 numbers with 16 of teacher 'stored'"),
    "terms of zero": (_goal({"crd": 0.0}), "sum to zero; nothing would be learned"),
    "teachers of zero": (
        _with(teachers={"stored": StoreTeacher(path="nowhere", weight=0.0)}),
        r"the weights of teachers \['stored'\] sum to zero",
    ),
    "unknown loss of a teacher": (_teachers(stored=StoreTeacher(path="{store}", losses=("cdr",))), r"losses \['cdr'\]"),
    "serves nothing": (_goal({"info_nce": 1.0}), "teachers.stored serves no term of objective.weights"),
    "no average": (
        lambda store, config: dataclasses.replace(
            _teachers(own=AverageTeacher())(store, config), optim=dataclasses.replace(config.optim, ema_decay=0.0)
        ),
        "needs its average: set optim.ema_decay",
    ),
    "masked ResNet": (_resnet, "objective 'mfd' hides patches of the image"),
    "unbounded": (
        _goal({"crd": 1.0, "dark_rest": Ramp(start=2.0, end=-1.5, last=4)}),
        "objective.weights.dark_rest falls to -1.5; below -1 ",
    ),
    "no bias": (_goal({"sigmoid_distillation": 1.0}), "needs a student with logit_bias"),
    "no labels": (_goal({"centroid": 1.0}), "teachers.stored: source 'glyphs' has no classes; centroids need labelled"),
    "no generated captions": (
        _goal({"info_nce": 1.0, "info_nce_synthetic": 1.0, "crd": 1.0}),
        "none of the first 16 samples of 'glyphs' has a generated caption, .*GlyphsConfig.synthetic",
    ),
    "a store older than the generated captions": (
        lambda store, config: _goal({"reinforcement_synthetic": 1.0})(
            store, dataclasses.replace(_same(_forget_last_captions)(store, config), source=WRITTEN)
        ),
        "teachers.stored: .* has no caption .*: run clip-jax embed again",
    ),
    "no live teacher": (_teachers(live=LiveTeacher(model="nowhere")), "teachers.live: nowhere does not exist"),
    "no store": (_teachers(stored=StoreTeacher(path="nowhere")), "nowhere is no folder; clip-jax embed writes"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_said_before_there_is_a_folder(
    case: str, place: Path, config: TrainConfig, tmp_path: Path
) -> None:
    change, message = BAD[case]
    store = tmp_path / "store"
    shutil.copytree(place / "store", store)
    alone = StoreTeacher(path=str(store))
    given = change(
        store, dataclasses.replace(config, teachers={"stored": alone}, objective=ObjectiveConfig(weights={"crd": 1.0}))
    )
    named = {
        name: dataclasses.replace(one, path=str(store))
        if isinstance(one, StoreTeacher) and one.path == "{store}"
        else one
        for name, one in given.teachers.items()
    }
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(dataclasses.replace(given, teachers=named), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_that_changed_since_they_were_embedded_are_refused(
    place: Path, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the store knows its teacher as "teacher", relative to where it was made
    shutil.copytree(place / "teacher", tmp_path / "teacher")
    shutil.copytree(place / "other", tmp_path / "other")
    stored = {"stored": StoreTeacher(path=str(place / "store"))}
    objective = ObjectiveConfig(weights={"crd": 1.0})
    alone = dataclasses.replace(config, teachers=stored, objective=objective, model=SHARP)
    some = InheritConfig(model="teacher", text=TowerChoice(on=False))
    embedded = open_teachers(alone).embedded
    plan = Plan(alone, open_teachers(alone).offers)
    state_from(plan, "teacher", embedded)
    state_from(plan, "other", embedded)  # another model altogether
    inheriting_state(plan, some, embedded)
    shutil.copytree(tmp_path / "other", tmp_path / "teacher", dirs_exist_ok=True)  # in place
    hashes = [tree.weights_hash(open_weights(place / name).params)[:12] for name in ("other", "teacher")]
    for setting, given in (
        ("init_from", {"init_from": str(tmp_path / "teacher")}),
        ("inherit.model", {"inherit": some}),
    ):
        said = (
            rf"^{setting} \S*teacher holds the weights {hashes[0]}, but the store of teachers.stored was embedded with the "
            rf"weights {hashes[1]} by that name; run clip-jax embed again"
        )
        with pytest.raises(ValueError, match=said):
            train(dataclasses.replace(alone, **given), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_stores_of_other_views_or_without_texts_are_refused(place: Path, config: TrainConfig, tmp_path: Path) -> None:
    teacher, ours, theirs = clip_jax.load(place / "teacher"), Augmentation(scale=(0.5, 1.0)), Augmentation()
    write_store(tmp_path / "views", teacher, augmentation=ours, views=2)
    write_store(tmp_path / "others", teacher, augmentation=ours, views=2, seed=1)
    write_store(tmp_path / "images", teacher, captions=False)

    def against(
        augmentation: Augmentation | None, weights: dict[str, float], *names: str, **fields: Any
    ) -> TrainConfig:
        stores = {name: StoreTeacher(path=str(tmp_path / name), **fields) for name in names}
        given = dataclasses.replace(config, teachers=stores, objective=ObjectiveConfig(weights=weights))
        return _read(given, augmentation)

    refused = {
        "but training augments by": against(theirs, {"crd": 1.0}, "views"),
        "views made by .* but training augments by None": against(None, {"crd": 1.0}, "views"),
        r"hold embeddings of other views \(views.seed: 0 and 1\)": against(ours, {"crd": 1.0}, "views", "others"),
        "objective 'crd' needs what teacher 'images' does not give: embeddings of captions": against(
            None, {"crd": 1.0}, "images"
        ),
    }
    for message, given in refused.items():
        with pytest.raises(ValueError, match=message):
            train(given, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    for given in (
        against(ours, {"crd": 1.0}, "views"),
        against(None, {"image_mse": 1.0}, "images"),
        against(ours, {"image_mse": 1.0}, "images", any_view=True),
        against(ours, {"image_mse": 1.0}, "views", "images", any_view=True),
    ):
        Plan(given, open_teachers(given).offers)


def next_batch(plan: Plan, teachers: Teachers, source: Source) -> tuple[dict[str, Any], np.ndarray]:
    """The first one of a training, on the devices, and its uids."""
    target, read = eval_target(plan.config.model), plan.config.read
    stream = TrainStream(source, target, read, seed=0, batch_size=plan.config.batch_size, taught=teachers.taught)
    try:
        batch, _ = next(stream)
    finally:
        stream.close()
    uid = batch.pop("uid")
    return sharding.to_global(batch, plan.mesh), uid


def test_scales_of_teachers(place: Path, config: TrainConfig) -> None:
    """A store's and a live teacher's own, whatever the dtype; one that a config sets goes before."""
    source = open_source(config.source)
    warm = dataclasses.replace(config.teachers["stored"], scale=60.0)
    given = dataclasses.replace(config, teachers={**config.teachers, "warm": warm})
    teachers = open_teachers(given, source)
    plan = Plan(given, teachers.offers)
    state = plan.initial_state()
    batch, uid = next_batch(plan, teachers, source)
    filled = teachers.on(plan)(batch, state)
    expected = plan.batch()
    assert jax.tree.map(np.shape, filled) == jax.tree.map(np.shape, expected)
    assert jax.tree.map(lambda a: (a.dtype, a.sharding), filled) == jax.tree.map(
        lambda a: (a.dtype, a.sharding), expected
    )
    told = filled["targets"]
    scales = {name: float(one.scale) for name, one in told.items()}
    assert scales == pytest.approx({"stored": 100, "live": 100, "own": 1 / 0.07, "warm": 60}, rel=1e-5)
    store = TeacherStore(place / "store")
    np.testing.assert_array_equal(told["stored"].image, store.image(store.rows(uid)))
    for name in ("image", "text"):
        np.testing.assert_allclose(getattr(told["live"], name), getattr(told["stored"], name), atol=0.01)


def test_live_weights_are_cut_over_the_mesh_in_bf16(config: TrainConfig) -> None:
    """By the student's general rule, its own `rules` left out; only single numbers stay in f32."""
    mesh = MeshConfig(fsdp=2, fsdp_min_size=256, rules=(("(visual|text)/blocks/.*", ()),))
    alone, objective = {"live": config.teachers["live"]}, ObjectiveConfig(weights=dict.fromkeys(BOTH, 1.0))
    given = dataclasses.replace(config, mesh=mesh, teachers=alone, objective=objective)
    teachers = open_teachers(given)
    plan = Plan(given, teachers.offers)
    live = tree.leaves_by_path(teachers.on(plan)._live["live"])
    assert live["logit_scale"].dtype == np.float32
    assert {leaf.dtype.name for leaf in live.values() if leaf.ndim} == {"bfloat16"}
    for path, leaf in live.items():
        layers = "blocks" in path.split("/")
        pieces = 2 if leaf.size >= 256 and leaf.ndim - layers > 1 else 1
        assert leaf.sharding.mesh == plan.mesh, path
        assert sum(axis == sharding.FSDP for axis in leaf.sharding.spec) == pieces - 1, (path, leaf.sharding.spec)
        assert leaf.addressable_shards[0].data.size == leaf.size // pieces, path
    cut = [path for path, leaf in live.items() if sharding.FSDP in leaf.sharding.spec]
    assert any("/blocks/" in path for path in cut)
    assert len(cut) < len(live)


def test_centroids_are_of_the_first_samples_of_each_class(
    place: Path, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Digits, "__len__", lambda self: 80)
    samples = DigitsConfig(size=16)
    teacher: Model = clip_jax.load(place / "teacher")
    write_store(tmp_path / "digits", teacher, samples, captions=False, dtype="float32")
    weights = {"centroid": 0.5, "classification": 1.0}
    given = dataclasses.replace(
        config,
        source=samples,
        steps=2,
        teachers={"t": StoreTeacher(path=str(tmp_path / "digits"))},
        objective=ObjectiveConfig(weights=weights),
    )
    source = Digits(samples)
    seen = [source[index] for index in range(80)]
    images = teacher.encode_image([one.image for one in seen])
    wanted = class_centroids(images, np.array([one.label for one in seen]), 10)
    teachers = open_teachers(given, source)
    plan = Plan(given, teachers.offers)
    np.testing.assert_allclose(teachers.centroids["t"], wanted, atol=1e-5)
    filled = teachers.on(plan)(next_batch(plan, teachers, source)[0], plan.state)
    np.testing.assert_array_equal(filled["targets"]["t"].centroids, teachers.centroids["t"])
    assert jax.tree.map(np.shape, filled) == jax.tree.map(np.shape, plan.batch())
    heads = plan.state.params["distill"]["t"]
    assert heads["classifier"]["kernel"].shape == (32, 10)
    assert heads["centroid_projection"]["kernel"].shape == (16, 32)
