"""Training a ResNet: statistics over the mesh, steps that are skipped, frozen towers, and runs that stop and go on."""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from clip_jax import run_folder, sharding, tree
from clip_jax.checkpoint import Checkpoints
from clip_jax.cli.configs import to_dataclass
from clip_jax.evals.embed import Encoder
from clip_jax.evals.suite import flat_figures, open_evaluations, run_evaluations
from clip_jax.experiment import Plan, TrainConfig
from clip_jax.loading import load_encoder
from clip_jax.models.resnet import ResNetConfig
from clip_jax.optim import statistics_mask
from clip_jax.plain import from_dict, to_dict
from clip_jax.runs import load_run
from clip_jax.sharding import MeshConfig
from clip_jax.state import TrainState, new_state
from clip_jax.train import train
from tests import small_config
from tests.conftest import random_batch
from tests.models import reference
from tests.models.reference_resnet import ResNet
from tests.models.test_resnet import rough_params
from tests.models.test_towers import normalized

VISION = ResNetConfig(layers=(1, 1, 1, 1), width=4, head_width=32, image_size=32)


@pytest.fixture(scope="module", autouse=True)
def quickly() -> Iterator[None]:
    """One device, and programs that are compiled with little care: most of the time would go into that."""
    jax.config.update("jax_disable_most_optimizations", True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: jax.local_devices()[:1])
        yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def config(quickly: None) -> TrainConfig:
    """Six steps of the small run with a ResNet in it; a checkpoint every other."""
    config = to_dataclass(small_config.get_config())
    model = dataclasses.replace(config.model, vision_cfg=VISION)
    keep = dataclasses.replace(config.checkpoint, every=2)
    return dataclasses.replace(config, model=model, steps=6, eval_every=0, checkpoint=keep)


@pytest.fixture(scope="module")
def batch(config: TrainConfig) -> dict[str, np.ndarray]:
    return random_batch(config.model, 16, seed=0)


def statistics(params: Any) -> dict[str, np.ndarray]:
    marks = tree.leaves_by_path(statistics_mask(params))
    return {path: np.asarray(leaf) for path, leaf in tree.leaves_by_path(params).items() if marks[path]}


@pytest.fixture(scope="module")
def plan(config: TrainConfig) -> Plan:
    return Plan(config)


@pytest.fixture(scope="module")
def start(plan: Plan) -> TrainState:
    """A state before the first step, as host arrays, with parameters that all count."""
    return jax.device_get(new_state(rough_params(plan.config.model), plan.tx, ema=True))


def taken(plan: Plan, state: TrainState, batch: dict[str, np.ndarray]) -> tuple[TrainState, dict[str, float]]:
    after, metrics = plan.step(jax.device_put(state, plan.shardings), sharding.to_global(batch, plan.mesh))
    return jax.device_get(after), {name: float(value) for name, value in metrics.items()}


@pytest.fixture(scope="module")
def after_one(plan: Plan, start: TrainState, batch: dict[str, np.ndarray]) -> tuple[TrainState, dict[str, float]]:
    return taken(plan, start, batch)


def test_new_statistics_are_those_of_the_batch(config, start, batch, after_one):
    state, _ = after_one
    tower = ResNet(config.model, start.params)
    tower(normalized(config.model, batch["image"]), train=True)
    found = statistics(state.params)
    assert found.keys() == {f"visual/{path}" for path in tower.statistics}
    before = statistics(start.params)
    average = statistics(state.ema)
    for path, wanted in tower.statistics.items():
        path = f"visual/{path}"
        np.testing.assert_allclose(found[path], wanted, rtol=1e-4, atol=1e-5, err_msg=path)
        followed = before[path] + 0.9 * (found[path] - before[path])  # the average's decay is 1/10 at first
        np.testing.assert_allclose(average[path], followed, rtol=1e-5, atol=1e-6, err_msg=path)


@pytest.mark.parametrize("fsdp", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_eight_devices_do_what_one_does(config, start, batch, after_one, monkeypatch, fsdp):
    """The gradient is read off Adam's first moment, a tenth of it."""
    monkeypatch.setattr(jax, "devices", jax.local_devices)
    plan = Plan(dataclasses.replace(config, mesh=MeshConfig(fsdp=fsdp, fsdp_min_size=512)))
    assert plan.mesh.devices.size == 8
    if fsdp == 2:
        cut = tree.leaves_by_path(plan.shardings.params)
        assert "fsdp" in cut["visual/layer4/0/conv2/kernel"].spec
        assert "fsdp" in cut["visual/attnpool/k/kernel"].spec
    state, metrics = taken(plan, start, batch)
    wanted, figures = after_one
    assert metrics["loss"] == pytest.approx(figures["loss"], rel=1e-5)
    assert metrics["grad_norm"] == pytest.approx(figures["grad_norm"], rel=1e-4)
    expected = statistics(wanted.params)
    for path, leaf in statistics(state.params).items():
        np.testing.assert_allclose(leaf, expected[path], rtol=1e-5, atol=1e-6, err_msg=path)
    moments = tree.leaves_by_path(wanted.opt_state)
    for path, leaf in tree.leaves_by_path(state.opt_state).items():
        if "/mu/" in path:
            np.testing.assert_allclose(leaf, moments[path], rtol=1e-3, atol=1e-5 * figures["grad_norm"], err_msg=path)


def test_no_optimizer_holds_or_moves_statistics(start, after_one):
    state, _ = after_one
    assert not any(path.endswith(("/mean", "/var")) for path in tree.paths(state.opt_state))
    before = tree.leaves_by_path(start.params)
    assert all(np.any(leaf != before[path]) for path, leaf in tree.leaves_by_path(state.params).items())


@pytest.mark.parametrize(
    ("path", "value"),
    [("text/proj/kernel", math.nan), ("visual/attnpool/v/kernel", math.inf), ("visual/conv1/kernel", 1e25)],
    ids=["text", "image", "variance overflows alone"],
)
def test_a_step_that_is_not_finite_leaves_statistics(plan, start, batch, path, value):
    leaves = tree.leaves_by_path(start.params)
    bad = dataclasses.replace(start, params=tree.nested(leaves | {path: leaves[path] * np.float32(value)}))
    state, metrics = taken(plan, bad, batch)
    assert metrics["skipped"] == 1
    assert math.isfinite(metrics["loss"]) == (path == "visual/conv1/kernel")
    for name in ("params", "ema"):
        for a, b in zip(*(jax.tree.leaves(getattr(one, name)) for one in (state, bad)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_frozen_tower_stays_and_gives_what_it_gives_in_evaluation(config, batch):
    plan = Plan(dataclasses.replace(config, optim=dataclasses.replace(config.optim, freeze=("visual/.*",))))
    model = config.model
    start = jax.device_get(new_state(rough_params(model), plan.tx, ema=True))
    state, metrics = taken(plan, start, batch)
    for a, b in zip(*(jax.tree.leaves(one.params["visual"]) for one in (state, start)), strict=True):
        np.testing.assert_array_equal(a, b)
    image = ResNet(model, start.params)(normalized(model, batch["image"]), train=False)
    text = reference.text_embeddings(model, start.params, batch["text"])
    loss, _ = reference.info_nce(image, text, math.exp(start.params["logit_scale"]))
    assert metrics["loss"] == pytest.approx(loss, rel=1e-4)


@pytest.fixture(scope="module")
def finished(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that run, done without interruption. Tests must not change it."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert train(config, folder).complete
    return folder


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(finished: Path, config: TrainConfig, tmp_path: Path):
    assert not train(config, tmp_path, stop=lambda step: step == 3).complete
    assert train(config, tmp_path).complete
    assert (tmp_path / run_folder.METRICS).read_bytes() == (finished / run_folder.METRICS).read_bytes()
    states = []
    for folder in (finished, tmp_path):
        checkpoints = Checkpoints(folder / run_folder.CHECKPOINTS, config.checkpoint)
        states.append(checkpoints.restore(Plan(config).state))
        checkpoints.close()
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(a, b)


def test_evaluation_uses_the_statistics_of_the_run(finished: Path, config: TrainConfig):
    run = load_run(finished)
    assert run.config.model == config.model
    assert all(np.any(leaf != float(path.endswith("var"))) for path, leaf in statistics(run.params).items())
    encoder = Encoder(config.model, run.params, run.mesh)
    evaluations = open_evaluations(config.evals, load=load_encoder)
    last = json.loads((finished / run_folder.METRICS).read_text().splitlines()[-1])
    assert flat_figures(run_evaluations(evaluations, encoder)) == {key: last[key] for key in last if key != "step"}


@pytest.mark.slow
def test_init_from_at_another_image_size(finished: Path, config: TrainConfig, tmp_path: Path):
    model = dataclasses.replace(config.model, vision_cfg=dataclasses.replace(VISION, image_size=64))
    larger = dataclasses.replace(config, model=model, init_from=str(finished), evals={})
    train(larger, tmp_path, stop=lambda step: step == 1)


def test_configs_name_the_kind_of_tower(config: TrainConfig):
    plain = json.loads(json.dumps(to_dict(config)))
    assert plain["model"]["vision_cfg"]["kind"] == "resnet"
    assert from_dict(TrainConfig, plain) == config
    assert from_dict(TrainConfig, {"model": {"vision_cfg": {"layers": 3}}}).model.vision_cfg.layers == 3
    with pytest.raises(ValueError, match=r"vision_cfg.kind is 'resnt'; there are resnet, vit .did you mean 'resnet'"):
        from_dict(TrainConfig, {"model": {"vision_cfg": {"kind": "resnt"}}})
    with pytest.raises(ValueError, match=r"vision_cfg.layers is \[3, 4, 6\]; expected 4 values"):
        from_dict(TrainConfig, {"model": {"vision_cfg": {"kind": "resnet", "layers": [3, 4, 6]}}})
