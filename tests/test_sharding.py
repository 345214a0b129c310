"""Meshes, placement rules, and the real training step under them: same losses, same placement, one compilation."""

import dataclasses
import re
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from clip_jax import sharding, tree
from clip_jax.experiment import Plan
from clip_jax.models.clip import abstract_params
from clip_jax.optim import OptimConfig, make_optimizer
from clip_jax.sharding import BATCH, DATA, FSDP, MeshConfig, make_mesh
from tests.conftest import compiled_step, plan_for, random_batch

STEPS = 3


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), (8, 1)),
        (MeshConfig(data=1, fsdp=-1), (1, 8)),
        (MeshConfig(data=4, fsdp=2), (4, 2)),
        (MeshConfig(data=-1, fsdp=4), (2, 4)),
    ],
)
def test_mesh_shapes(config, shape):
    mesh = make_mesh(config)
    assert mesh.devices.shape == shape
    assert mesh.axis_names == (DATA, FSDP)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MeshConfig(data=3), "does not fit 8 devices; the sizes must multiply to 8"),
        (MeshConfig(data=4, fsdp=1), "does not fit 8 devices"),
        (MeshConfig(data=-1, fsdp=3), "does not fit 8 devices"),
        (MeshConfig(data=16), "does not fit 8 devices"),
        (MeshConfig(data=-1, fsdp=-1), "at most one is -1"),
        (MeshConfig(data=0), "each size is a positive number"),
        (MeshConfig(data=-2), "each size is a positive number"),
    ],
)
def test_mesh_errors(config, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(config)


def test_batch_must_split_over_the_devices(mesh8):
    assert sharding.split_batch(24, mesh8) == 24
    with pytest.raises(ValueError, match=r"^batch 20 does not split over 8 devices; use a multiple of 8$"):
        sharding.split_batch(20, mesh8)
    for size in (0, -8):
        with pytest.raises(ValueError, match=f"^batch {size} is empty; batch must be at least 1 and a multiple of 8"):
            sharding.split_batch(size, mesh8)


def specs(shapes: dict[str, tuple[int, ...]], config: MeshConfig) -> dict[str, PartitionSpec]:
    params = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
    placed = sharding.parameter_shardings(params, make_mesh(config), config)
    return {name: placed[name].spec for name in shapes}


def test_general_rule_cuts_the_input_dimension():
    shapes = {
        "matrix": (64, 24),
        "stacked": (3, 64, 24),
        "odd_input": (63, 24),
        "odd": (63, 23),
        "small": (8, 8),
        "vector": (4096,),
        "scalar": (),
    }
    assert specs(shapes, MeshConfig(data=2, fsdp=4, fsdp_min_size=1024)) == {
        "matrix": PartitionSpec(FSDP),
        "stacked": PartitionSpec(None, FSDP),
        "odd_input": PartitionSpec(None, FSDP),
        "odd": PartitionSpec(),
        "small": PartitionSpec(),
        "vector": PartitionSpec(),
        "scalar": PartitionSpec(),
    }
    assert set(specs(shapes, MeshConfig(fsdp_min_size=1)).values()) == {PartitionSpec()}  # nothing to cut along


def test_rules_come_before_the_general_rule_and_the_first_wins():
    config = MeshConfig(data=2, fsdp=4, fsdp_min_size=1, rules=(("a.*", (None, FSDP)), ("ab", (FSDP,)), ("c", ())))
    assert specs({"ab": (8, 8), "b": (8, 8), "c": (8, 8)}, dataclasses.replace(config, rules=config.rules[::2])) == {
        "ab": PartitionSpec(None, FSDP),
        "b": PartitionSpec(FSDP),
        "c": PartitionSpec(),
    }
    with pytest.raises(ValueError, match=r"\['ab'\] match no parameter"):  # the rule before it took them all
        specs({"ab": (8, 8), "c": (8, 8)}, config)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (("w", (None, None, FSDP)), "more entries than dimensions"),
        (("w", ("model",)), r"unknown axis 'model'; the mesh has \('data', 'fsdp'\)"),
        (("w", (None, FSDP)), "6 does not split over 4 devices of axis 'fsdp'"),
        (("W", (FSDP,)), r"\['W'\] match no parameter; paths look like \['w'\]"),
    ],
)
def test_rule_errors(rule, message):
    with pytest.raises(ValueError, match=message):
        specs({"w": (8, 6)}, MeshConfig(data=2, fsdp=4, rules=(rule,)))


# Copies of a parameter that an optimizer holds: of hidden matrices, and of all others
@pytest.mark.parametrize(
    ("name", "hidden", "others"), [("adamw", 2, 2), ("lion", 1, 1), ("muon", 1, 2), ("adafactor", 1, 1)]
)
@pytest.mark.parametrize("freeze", [(), ("visual/.*",)], ids=["all", "frozen"])
def test_optimizer_state_lies_where_the_parameters_lie(small, name, hidden, others, freeze):
    config = MeshConfig(data=1, fsdp=8, fsdp_min_size=512)
    params = abstract_params(small)
    placed = sharding.parameter_shardings(params, make_mesh(config), config)
    state = jax.eval_shape(make_optimizer(OptimConfig(name=name, freeze=freeze), 10_000, params).init, params)
    found: dict[str, int] = {}
    shardings = sharding.shardings_like(state, params, placed)
    for path, leaf, at in zip(tree.paths(state), jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True):
        owner = re.search(r"(visual|text)/.*", path)
        if owner and at.spec != PartitionSpec():
            found[owner[0]] = found.get(owner[0], 0) + 1
        else:
            assert np.prod(leaf.shape) < 512, path
    wanted = {
        path: hidden if "/blocks/" in path else others
        for path, at in zip(tree.paths(params), jax.tree.leaves(placed), strict=True)
        if at.spec != PartitionSpec() and not (freeze and path.startswith("visual"))
    }
    assert len(wanted) == (6 if freeze else 12)  # four hidden matrices, the projection, and patch or token embedding
    assert found == wanted


def test_to_global_keeps_the_rows(mesh42):
    batch = {"a": np.arange(48, dtype=np.int32).reshape(16, 3), "b": np.arange(16, dtype=np.uint8)}
    found = sharding.to_global(batch, mesh42)
    for name, array in found.items():
        np.testing.assert_array_equal(array, batch[name])
        assert array.sharding == NamedSharding(mesh42, PartitionSpec(BATCH))
        assert {shard.data.shape[0] for shard in array.addressable_shards} == {2}


def run(plan: Plan, step: Any, start: Any) -> tuple[list[float], Any]:
    state, losses = jax.device_put(start, plan.shardings, may_alias=False), []
    for number in range(STEPS):
        batch = sharding.to_global(random_batch(plan.config.model, 16, seed=number), plan.mesh)
        before = jax.tree.leaves(state)
        with jax.transfer_guard("disallow"):
            state, metrics = step(state, batch)
        assert all(leaf.is_deleted() for leaf in before), "the old state's buffers were not given up"
        losses.append(float(metrics["loss"]))
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == plan.shardings
    return losses, state


@pytest.fixture(scope="module")
def one_device(small, small_start):
    plan = plan_for(small, MeshConfig(), 1)
    return run(plan, compiled_step(plan), small_start)[0]


def test_eight_copies_train_as_one_device(small_plan, small_step, small_start, one_device):
    np.testing.assert_allclose(run(small_plan, small_step, small_start)[0], one_device, rtol=1e-5)


def test_one_compilation(small, small_start, one_device):
    plan = plan_for(small, MeshConfig(data=4, fsdp=2), 8)
    np.testing.assert_allclose(run(plan, plan.step, small_start)[0], one_device, rtol=1e-5)
    assert plan.step._cache_size() == 1


def test_fsdp_gathers_one_layer_at_a_time_and_never_shuffles(small, one_device):
    plan = plan_for(small, MeshConfig(data=1, fsdp=8), 8)
    step = compiled_step(plan)
    losses, state = run(plan, step, plan.initial_state())  # the same numbers, each shard made where it lies
    np.testing.assert_allclose(losses, one_device, rtol=1e-5)
    assert len(set(losses)) == STEPS
    kernel = state.params["visual"]["blocks"]["mlp"]["fc"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(2, 4, 128)}

    program = step.as_text()
    assert "all-to-all" not in program
    gathered = re.findall(r"= f32\[([\d,]+)\]\S* all-gather(?:-start)?\(.*op_name=\"([^\"]*)\"", program)
    in_loop = [shape for shape, where in gathered if "while/body" in where]
    assert set(in_loop) == {"32,96", "32,32", "32,128", "128,32"}  # [in, out] of one layer
    assert len(in_loop) == 2 * 2 * 4  # both towers, forward and backward, four matrices
    assert not any(shape.startswith("2,") for shape, _ in gathered), "a whole stack is gathered at once"
