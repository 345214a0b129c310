"""The search for settings that fit, with a compiler that only pretends; what it says of them; and its exit codes."""

import dataclasses
import itertools
from collections.abc import Callable

import jax
import pytest

from clip_jax.experiment import Plan, TrainConfig
from clip_jax.models.presets import preset
from clip_jax.models.resnet import ResNetConfig
from clip_jax.objectives import ObjectiveConfig
from clip_jax.plan.chips import parse_pod
from clip_jax.plan.compiled import Compiled
from clip_jax.plan.fit import GPU_SHARE, Trial, memory_of, tried
from clip_jax.sharding import MeshConfig, make_mesh
from clip_jax.teachers import Offer, StoreTeacher

V5E = parse_pod("v5e:2x4")
CONFIG = TrainConfig(batch_size=4096)
TOO_MUCH = 20 * 2**30


def pretend(fits: Callable[[TrainConfig], bool] = lambda config: False, *, check: bool = False, **figures):
    """A compiler for eight devices. check: raises what the real one raises for what in a config cannot work."""

    def compile_(config: TrainConfig, offers, pod) -> Compiled:
        if check:
            Plan(config, offers, jax.devices())
        mesh = dict(make_mesh(config.mesh, jax.devices()).shape)
        known = {"parameters": 0, "optimizer": 0, "average": 0, "batch": 0, "products": 1, "hbm": 1} | figures
        known["needed"] = 0 if fits(config) else TOO_MUCH
        return Compiled(kind="x", devices=8, mesh=mesh, seconds=1.0, **known)

    return compile_


def settings_of(trials: list[Trial]) -> list[str]:
    """What each trial has beyond the one before it."""
    pairs = itertools.pairwise(trials)
    return [" ".join(sorted(set(new.settings) - set(old.settings))).replace("--config.", "") for old, new in pairs]


def test_settings_are_added_until_they_fit():
    trials = list(tried(CONFIG, {}, V5E, pretend(lambda config: config.mesh.fsdp == 4)))
    assert trials[0].config == CONFIG
    assert [trial.fits for trial in trials] == [False] * 5 + [True]
    assert trials[-1].settings == (
        "--config.objective.form=ring",
        "--config.model.running.remat=block",
        "--config.mesh.fsdp=4",
    )
    assert trials[-1].config.mesh.fsdp == 4
    assert trials[-1].config.model.running.remat == "block"


def test_all_that_can_save_memory_is_tried():
    trials = list(tried(dataclasses.replace(CONFIG, batch_size=512), {}, V5E, pretend()))
    assert settings_of(trials) == [
        "objective.form=ring",
        *("model.running.remat=dots", "model.running.remat=block"),
        *("mesh.fsdp=2", "mesh.fsdp=4", "mesh.fsdp=8"),
        *("accumulate=2", "accumulate=4", "accumulate=8", "accumulate=16"),
        *("mesh.fsdp=4 mesh.model=2",),  # 12 heads of images, 8 of texts: 8 do not divide 12
        *("mesh.fsdp=2 mesh.model=4",),
        *("batch_size=256", "batch_size=128", "batch_size=64", "batch_size=32"),
    ]
    assert trials[-1].times is None
    assert len(list(tried(CONFIG, {}, V5E, pretend(), search=False))) == 1


def test_parameters_already_cut_are_cut_further():
    cut = dataclasses.replace(CONFIG, mesh=MeshConfig(data=4, fsdp=2))
    trials = tried(cut, {}, V5E, pretend(lambda config: config.mesh.fsdp == 8))
    assert [one for one in list(trials)[-1].settings if "mesh" in one] == [
        "--config.mesh.fsdp=8",
        "--config.mesh.data=1",
    ]


def test_of_what_is_there_already_nothing_is_said():
    spare = dataclasses.replace(
        CONFIG, objective=ObjectiveConfig(form="ring"), batch_size=8, mesh=MeshConfig(fsdp=8, model=1)
    )
    assert settings_of(list(tried(spare, {}, V5E, pretend())))[:2] == [
        "model.running.remat=dots",
        "model.running.remat=block",
    ]


def resnet() -> TrainConfig:
    vision = ResNetConfig(layers=(1, 1, 1, 1), width=16, image_size=64)
    model = dataclasses.replace(preset("tiny"), vision_cfg=vision)
    return TrainConfig(model=model, batch_size=32)


def with_gd() -> TrainConfig:
    return TrainConfig(
        model=preset("tiny"),
        batch_size=32,
        objective=ObjectiveConfig(weights={"info_nce": 1.0, "gd": 1.0}),
        teachers={"t": StoreTeacher(path="s")},
    )


@pytest.mark.parametrize(
    ("config", "offers", "refused"),
    [(resnet(), {}, "accumulate"), (with_gd(), {"t": Offer(embed_dim=8)}, "objective.form")],
    ids=["batch norms", "gd"],
)
def test_what_a_config_refuses_is_left_out_and_the_rest_is_tried(config, offers, refused):
    trials = list(tried(config, offers, V5E, pretend(check=True)))
    found = settings_of(trials)
    assert not any(refused in one for one in found)
    assert "mesh.fsdp=8" in found
    assert found[-1].startswith("batch_size=")


def test_what_cannot_work_as_it_is_is_the_users_error():
    with pytest.raises(ValueError, match="use a multiple of 8"):
        list(tried(dataclasses.replace(resnet(), batch_size=20), {}, V5E, pretend(check=True)))


@pytest.mark.parametrize(
    ("pod", "share"), [("v5e:2x4", 1.0), ("h100:8", GPU_SHARE)], ids=["all of a TPU's", "a share of a GPU's"]
)
def test_it_fits_up_to_the_last_byte_there_is(pod, share):
    known = parse_pod(pod)
    have = int(known.chip.memory * share)
    assert memory_of(known, 8) == pytest.approx(have, abs=1)
    kinds = {"parameters": 2**30, "optimizer": 2**31, "average": 2**29, "batch": 2**28, "code": 2**20}
    rest = have - sum(kinds.values())

    def fits(temporaries: int) -> bool:
        [trial] = tried(CONFIG, {}, known, pretend(lambda _: True, **kinds, temporaries=temporaries), search=False)
        return trial.fits

    assert fits(rest)
    assert not fits(rest + 1)
