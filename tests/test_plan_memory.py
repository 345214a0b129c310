"""Bytes a device of a training step, as `clip-jax plan` counts them, against counts by hand."""

import dataclasses
from collections.abc import Mapping

import jax
import pytest

from clip_jax.experiment import Plan, TrainConfig
from clip_jax.models.clip import CLIPConfig
from clip_jax.models.flops import train_flops_per_pair
from clip_jax.objectives import ObjectiveConfig
from clip_jax.optim import OptimConfig
from clip_jax.plan import compiled as module
from clip_jax.plan.compiled import Compiled, compile_step
from clip_jax.sharding import MeshConfig
from clip_jax.teachers import LiveTeacher, Offer
from tests.conftest import QUICK_COMPILE

PLACES = [(i % 4, i // 4) for i in range(8)]  # two nodes of four

# Numbers in two layers of width 32: attention's output, its q, k, v, four of norms, and the MLP; kernels and biases.
OUT, QKV, NORMS, FC, PROJ = (
    (2 * 32 * 32, 2 * 32),
    (2 * 32 * 96, 2 * 96),
    4 * 2 * 32,
    (2 * 32 * 128, 2 * 128),
    2 * 128 * 32,
)
TEXT = 64 * 32 + 8 * 32 + 2 * 32 + 32 * 16  # tokens, positions, last norm, projection
PATCHES, IMAGE = 192 * 32, 32 + 5 * 32 + 4 * 32 + 32 * 16  # class token, positions, two norms, projection
ONE = 1  # the temperature


def numbers(*, fsdp: int = 1, model: int = 1) -> int:
    """Of parameters a device where all kernels of at least 4,096 numbers are cut along fsdp (not so attention's output)."""
    layers = OUT[0] // model + OUT[1] + QKV[0] // fsdp + QKV[1] + NORMS
    layers += FC[0] // (fsdp * model) + FC[1] // model + PROJ // (fsdp * model) + 2 * 32
    return 2 * layers + TEXT + PATCHES // fsdp + IMAGE + ONE


def config_of(model: CLIPConfig, mesh: MeshConfig, **given) -> TrainConfig:
    return TrainConfig(model=model, batch_size=16, mesh=dataclasses.replace(mesh, fsdp_min_size=4096), **given)


def planned(config: TrainConfig, offers: Mapping[str, Offer] | None = None, **given) -> Compiled:
    return compile_step(config, offers or {}, jax.devices(), PLACES, (), **given)


@pytest.fixture
def refused(monkeypatch):
    """A compiler that refuses at once, so that only what goes into the step is counted."""
    monkeypatch.setattr(module, "_compiled", lambda traced, platform: 12345678)


def test_the_count_by_hand_is_of_these_parameters():
    assert (numbers(), numbers(fsdp=2, model=2)) == (60673, 24577)


@pytest.mark.usefixtures("refused")
@pytest.mark.parametrize(
    ("mesh", "cut", "rows"),
    [
        (MeshConfig(), {}, 2),
        (MeshConfig(fsdp=4), {"fsdp": 4}, 2),
        (MeshConfig(model=2), {"model": 2}, 4),
        (MeshConfig(replica=2, fsdp=2, model=2), {"fsdp": 2, "model": 2}, 4),
    ],
    ids=["data 8", "fsdp 4", "model 2", "replica 2, fsdp 2, model 2"],
)
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_bytes_that_go_into_a_step(small, mesh, cut, rows, decay):
    found = planned(config_of(small, mesh, optim=OptimConfig(ema_decay=decay)))
    weights = 4 * numbers(**cut)
    kinds = {
        "parameters": weights,
        "optimizer": 2 * weights + 2 * 4,  # AdamW's moments and two counters
        "average": weights if decay else 0,
        "batch": rows * (16 * 16 * 3 + 4 * 8 + 4),  # pixels u8, tokens i32, whether the sample was replaced
        "teachers": 0,
    }
    assert {name: getattr(found, name) for name in kinds} == kinds
    assert (found.needed, found.total) == (12345678, 12345678)
    assert dataclasses.replace(found, needed=1).total == sum(kinds.values())  # what goes in is there in any case


@pytest.mark.usefixtures("refused")
def test_weights_of_a_live_teacher_are_in_its_dtype_and_cut_but_for_its_temperature(small):
    taught = ObjectiveConfig(weights={"info_nce": 1.0, "reinforcement": 1.0})
    for dtype, size in (("bfloat16", 2), ("float32", 4)):
        config = config_of(
            small, MeshConfig(fsdp=4), objective=taught, teachers={"t": LiveTeacher(model="a/folder", dtype=dtype)}
        )
        found = planned(config, {"t": Offer(embed_dim=24)}, live={"t": small})
        assert found.teachers == size * (numbers(fsdp=4) - 1) + 4
        assert found.batch == 2 * (16 * 16 * 3 + 4 * 8 + 4) + 2 * 2 * 4 * 24 + 2 * 4  # and embeddings, scale and bias
        assert found.total == 12345678 + found.teachers


def test_figures_of_a_program(small, monkeypatch):
    monkeypatch.setattr(module, "_compiled", lambda traced, platform: traced.lower().compile(QUICK_COMPILE))
    config = config_of(small, MeshConfig(data=4, fsdp=2), optim=OptimConfig(ema_decay=0.9))
    found = planned(config)
    plan = Plan(config, {}, jax.devices())
    memory = plan.step.trace(plan.state, plan.batch()).lower().compile(QUICK_COMPILE).memory_analysis()
    assert found.temporaries == memory.temp_size_in_bytes > 0
    scalars = 4 * 4  # the step, and samples skipped, skipped in a row and replaced
    given = found.parameters + found.optimizer + found.average + found.batch
    assert (
        given + scalars <= memory.argument_size_in_bytes < given + scalars + 1024
    )  # and what spikes are looked for in
    assert found.total == given + found.temporaries + found.code
    assert 2 * 16 * 16 * 4 / 8 < found.loss < found.temporaries  # at least its own rows of two matrices of logits
    flops = config.batch_size * train_flops_per_pair(small)
    assert found.products == pytest.approx(flops, rel=0.1)
    assert (found.devices, found.mesh) == (8, {"replica": 1, "data": 4, "fsdp": 2, "model": 1})
    spans = {(one.axes, one.span) for one in found.collectives if one.kind in ("all-gather", "all-reduce")}
    assert {(("fsdp",), (2, 1)), (("data",), (2, 2))} <= spans  # 0 and 1; 0, 2, 4, 6
    assert all(one.load == 0 for one in found.collectives)
    assert found.hbm > 2 * (found.parameters + found.optimizer + found.average)


def test_the_split_of_temporaries_adds_up_to_them():
    known = {
        "kind": "x",
        "devices": 1,
        "mesh": {},
        "seconds": 0.0,
        "optimizer": 0,
        "average": 0,
        "batch": 0,
        "products": 0,
    }

    def split(**given) -> tuple[int, ...]:
        return tuple(Compiled(**known, **given).split.values())

    assert split(parameters=10, loss=20, temporaries=100) == (70, 10, 20)
    assert split(parameters=90, loss=20, temporaries=100) == (0, 90, 10)
    assert split(parameters=200, loss=20, temporaries=100) == (0, 100, 0)
