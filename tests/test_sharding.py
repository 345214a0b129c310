"""Meshes, placement rules, and the real training step under them: same losses, same placement, one compilation."""

import collections
import dataclasses
import os
import re
import socket
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from clip_jax import sharding, tree
from clip_jax.experiment import Plan
from clip_jax.models.clip import abstract_params
from clip_jax.models.layers import BlockConfig, Running, run_blocks, stacked_blocks
from clip_jax.models.resnet import ResNetConfig
from clip_jax.models.vit import VisionConfig
from clip_jax.optim import OptimConfig, make_optimizer
from clip_jax.sharding import AXES, BATCH, FSDP, MODEL, REPLICA, MeshConfig, make_mesh
from tests.conftest import QUICK_COMPILE, compiled_step, plan_for, random_batch

STEPS = 3


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), (1, 8, 1, 1)),
        (MeshConfig(data=1, fsdp=-1), (1, 1, 8, 1)),
        (MeshConfig(data=4, fsdp=2), (1, 4, 2, 1)),
        (MeshConfig(data=-1, fsdp=4), (1, 2, 4, 1)),
        (MeshConfig(replica=-1, data=1), (8, 1, 1, 1)),
        (MeshConfig(replica=2, fsdp=2, model=2), (2, 1, 2, 2)),
    ],
)
def test_mesh_shapes(config, shape):
    mesh = make_mesh(config)
    assert mesh.devices.shape == shape
    assert mesh.axis_names == AXES == ("replica", "data", "fsdp", "model")


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh reads of a TPU device: of slices of two by two."""

    id: int
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    core_on_chip: int = 0

    @property
    def slice_index(self) -> int:
        return self.id // 4

    @property
    def process_index(self) -> int:
        return self.id // 2

    @property
    def coords(self) -> tuple[int, int, int]:
        return self.id % 4 % 2, self.id % 4 // 2, 0


@pytest.mark.parametrize(
    "config",
    [MeshConfig(replica=2), MeshConfig(replica=4, model=2), MeshConfig(replica=-1, data=1, fsdp=2, model=2)],
)
def test_only_replica_crosses_slices(config):
    mesh = make_mesh(config, [Chip(number) for number in (5, 0, 2, 7, 1, 4, 3, 6)])
    slices = [{chip.slice_index for chip in copy.flat} for copy in mesh.devices]
    half = len(slices) // 2
    assert slices == [{0}] * half + [{1}] * half


def test_replica_must_be_a_multiple_of_the_slices():
    message = "mesh.replica is 1, and the 8 devices lie in 2 slices; .* must be a multiple of 2"
    with pytest.raises(ValueError, match=message):
        make_mesh(MeshConfig(), [Chip(number) for number in range(8)])
    assert make_mesh(MeshConfig(), [Chip(number) for number in range(4)]).devices.shape == (1, 4, 1, 1)


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


def test_devices_along_model_share_a_part_of_the_batch():
    mesh = make_mesh(MeshConfig(model=4))
    assert sharding.batch_shards(mesh) == 2
    assert sharding.split_batch(6, mesh) == 6
    with pytest.raises(ValueError, match=r"^batch 5 does not split over 2 groups of 4 devices; use a multiple of 2$"):
        sharding.split_batch(5, mesh)
    rows = np.arange(12, dtype=np.int32).reshape(6, 2)
    found = sharding.to_global({"a": rows}, mesh)["a"]
    for shard in found.addressable_shards:
        first = 3 * (shard.device.id // 4)
        np.testing.assert_array_equal(shard.data, rows[first : first + 3])


def test_a_group_of_several_processes_needs_a_row_for_each_device():
    chips = [Chip(number) for number in range(4)]
    assert sharding.split_batch(2, make_mesh(MeshConfig(model=2), chips)) == 2
    with pytest.raises(ValueError, match=r"^batch 6 does not split over 4 devices"):
        sharding.split_batch(6, make_mesh(MeshConfig(model=4), chips))


# Two processes of two devices, all four of which lie along `model`: each brings half the rows, and all have them all.
SPANNING = """
import sys
import jax
import numpy as np
jax.config.update("jax_cpu_collectives_implementation", "gloo")
number = int(sys.argv[2])
jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, number)
from clip_jax.sharding import MeshConfig, batch_sharding, make_mesh, split_batch, to_global
mesh = make_mesh(MeshConfig(model=4))
share = split_batch(8, mesh)
rows = np.arange(8, dtype=np.int32)[share * number : share * (number + 1)]
found = to_global({"a": rows, "b": rows[:, None].astype(np.uint8)}, mesh)
for array in found.values():
    assert array.sharding == batch_sharding(mesh)
    assert [shard.data.ravel().tolist() for shard in array.addressable_shards] == [list(range(8))] * 2
"""


@pytest.mark.slow
def test_processes_of_one_group_gather_their_rows():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-c", SPANNING, str(port)]
    running = [
        subprocess.Popen([*command, str(number)], env=flags, stderr=subprocess.PIPE, text=True) for number in range(2)
    ]
    try:
        said = [process.communicate(timeout=300)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], said


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


def test_blocks_are_cut_inside_a_layer_and_along_model():
    shapes = {
        "text/blocks/attn/qkv/kernel": (6, 64, 192),
        "text/blocks/attn/out/kernel": (6, 64, 64),
        "text/blocks/mlp/fc/kernel": (6, 64, 256),
        "text/blocks/mlp/fc/bias": (6, 256),
        "text/blocks/mlp/proj/kernel": (6, 256, 64),
        "text/blocks/mlp/proj/bias": (6, 64),
        "visual/head/out/kernel": (64, 64),
        "visual/head/mlp/proj/kernel": (255, 64),
        "text/proj/kernel": (64, 32),
    }
    assert specs(shapes, MeshConfig(data=2, fsdp=2, model=2, fsdp_min_size=1)) == {
        "text/blocks/attn/qkv/kernel": PartitionSpec(None, FSDP),
        "text/blocks/attn/out/kernel": PartitionSpec(None, MODEL, FSDP),
        "text/blocks/mlp/fc/kernel": PartitionSpec(None, FSDP, MODEL),
        "text/blocks/mlp/fc/bias": PartitionSpec(None, MODEL),
        "text/blocks/mlp/proj/kernel": PartitionSpec(None, MODEL, FSDP),
        "text/blocks/mlp/proj/bias": PartitionSpec(),
        "visual/head/out/kernel": PartitionSpec(MODEL, FSDP),
        "visual/head/mlp/proj/kernel": PartitionSpec(None, FSDP),  # 255 units do not divide
        "text/proj/kernel": PartitionSpec(FSDP),
    }


def test_rules_may_name_several_axes_and_win_over_model():
    path = "text/blocks/mlp/fc/kernel"
    config = MeshConfig(data=2, fsdp=2, model=2, rules=((".*/fc/kernel", (None, (FSDP, MODEL), REPLICA)),))
    assert specs({path: (6, 64, 256)}, config) == {path: PartitionSpec(None, (FSDP, MODEL), REPLICA)}


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
        (("w", ("tensor",)), r"unknown axis 'tensor'; the mesh has \('replica', 'data', 'fsdp', 'model'\)"),
        (("w", (None, FSDP)), "6 does not split over 4 devices of axis 'fsdp'"),
        (("w", (None, ("data", FSDP))), r"6 does not split over 8 devices of axis \('data', 'fsdp'\)"),
        (("w", ("data", ("data", "model"))), "axis 'data' is named twice"),
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
@pytest.mark.parametrize(
    ("config", "count"),
    # four hidden matrices, the projection, and patch or token embedding; along model each MLP's first bias, too
    [(MeshConfig(data=1, fsdp=8), 6), (MeshConfig(data=1, fsdp=4, model=2), 7)],
    ids=["fsdp", "fsdp+model"],
)
def test_optimizer_state_lies_where_the_parameters_lie(small, name, hidden, others, freeze, config, count):
    config = dataclasses.replace(config, fsdp_min_size=512)
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
        path: hidden if re.search("/blocks/.*kernel", path) else others
        for path, at in zip(tree.paths(params), jax.tree.leaves(placed), strict=True)
        if at.spec != PartitionSpec() and not (freeze and path.startswith("visual"))
    }
    assert len(wanted) == (count if freeze else 2 * count)
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


# All axes: eight copies of the model's parameters, of a half or a quarter, or of none; heads that divide along model, and
# (two heads over eight devices) that do not.
LAYOUTS = [
    MeshConfig(replica=8),
    MeshConfig(data=8),
    MeshConfig(fsdp=8),
    MeshConfig(data=4, fsdp=2),
    MeshConfig(replica=2, data=2, fsdp=2),
    MeshConfig(data=4, model=2),
    MeshConfig(fsdp=4, model=2),
    MeshConfig(replica=2, fsdp=2, model=2),
    MeshConfig(model=8),
]


@pytest.mark.slow
@pytest.mark.parametrize("scan", [True, False], ids=["scanned", "unrolled"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda mesh: "x".join(str(getattr(mesh, axis)) for axis in AXES))
def test_every_layout_trains_as_one_device(small, small_start, one_device, layout, scan):
    plan = plan_for(dataclasses.replace(small, running=Running(scan=scan)), layout, 8)
    np.testing.assert_allclose(run(plan, compiled_step(plan), small_start)[0], one_device, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "vision",
    [
        VisionConfig(layers=1, width=16, head_width=8, patch_size=8, image_size=16, pool_type="map"),
        ResNetConfig(layers=(1, 1, 1, 1), width=4, head_width=32, image_size=32),
    ],
    ids=["siglip", "resnet"],
)
def test_towers_with_other_pools_train_along_model_as_on_one_device(small, vision):
    model = dataclasses.replace(small, vision_cfg=vision)
    one, many = plan_for(model, MeshConfig(), 1), plan_for(model, MeshConfig(data=2, fsdp=2, model=2), 8)
    start = jax.device_get(one.initial_state())
    losses = [run(plan, compiled_step(plan), start)[0] for plan in (many, one)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_one_compilation(small, small_start, one_device):
    plan = plan_for(small, MeshConfig(replica=2, fsdp=2, model=2), 8)
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


def collectives(layout: MeshConfig, *, scan: bool) -> collections.Counter[tuple[str, str]]:
    """What the devices exchange for the gradient of two blocks, eight heads of 4 wide, on [16, 5, 32]: (kind, shape) in
    each device's program."""
    mesh = make_mesh(layout)
    block = BlockConfig(width=32, heads=8, hidden=128)
    definition, abstract = nnx.split(nnx.eval_shape(lambda: stacked_blocks(block, 2, rngs=nnx.Rngs(0))))
    params = {"tower": {"blocks": nnx.to_pure_dict(abstract)}}
    placed = sharding.parameter_shardings(params, mesh, layout)
    params = jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), params, placed)

    def loss(params: Any, x: jax.Array) -> jax.Array:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            blocks = nnx.merge(definition, params["tower"]["blocks"])
            return jnp.square(run_blocks(blocks, x, Running(scan=scan))).mean()

    x = jax.ShapeDtypeStruct((16, 5, 32), jnp.float32, sharding=sharding.batch_sharding(mesh))
    step = jax.jit(jax.value_and_grad(loss), out_shardings=(None, placed))
    program = step.lower(params, x).compile(QUICK_COMPILE).as_text()
    kinds = "all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute"
    found = re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", program)
    return collections.Counter(
        (kind, shape) for shapes, kind in found for shape in re.findall(r"f32\[([\d,]*)\]", shapes)
    )


@pytest.mark.parametrize("scan", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_model_exchanges_sums_of_activations_and_gathers_none(scan):
    found = collectives(MeshConfig(data=4, model=2, fsdp_min_size=512), scan=scan)
    layers = 1 if scan else 2
    assert (
        found["all-reduce", "20,32"] == layers * 4
    )  # rows of four of 16 samples; after each half, forward and backward
    assert {kind for kind, _ in found} == {"all-reduce", "all-gather"}
    gathered = {shape for kind, shape in found if kind == "all-gather"}
    assert gathered == {"32,3,8,4", "3,8,4"}, "all but the gradient of q, k and v's kernel and bias"
