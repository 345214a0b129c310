"""Where arrays live: the mesh, the placement rules of parameters, and the road from host batches to global arrays.

| axis, outermost first | the batch | parameters and optimizer state | what travels in a step |
| --- | --- | --- | --- |
| replica | cut | copied | gradients, between slices of a pod |
| data | cut | copied | gradients |
| fsdp | cut | cut | each layer's weights twice, gradients |
| model | copied | MLPs and attention outputs cut (Megatron) | each block's activations four times |

Every mesh has all four; an axis of size 1 costs nothing. Rajbhandari et al. 2020 (fsdp: ZeRO, stage 3); Shoeybi et al. 2019
(model: Megatron-LM, section 3).
"""

import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from clip_jax import tree

REPLICA, DATA, FSDP, MODEL = AXES = ("replica", "data", "fsdp", "model")
BATCH = (REPLICA, DATA, FSDP)  # the batch is cut along these

# Matrices of transformer blocks, and the dimension from the end that is cut along MODEL: what the first product of a pair
# makes and what the second takes, so that nothing travels between the two.
_ALONG_MODEL = ((r".*/mlp/fc/(kernel|bias)", -1), (r".*/(mlp/proj|attn/out|head/out)/kernel", -2))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Sizes of the mesh axes, -1 for "all devices that are left", and the rule that cuts parameters.

    fsdp_min_size: parameters with fewer elements are not cut along fsdp, since gathering them costs more than it saves.
    rules: pairs (regex of a parameter's path, one entry a dimension: an axis name, several, or None); the first that
    matches the whole path wins, before the general rule.
    """

    replica: int = 1
    data: int = -1
    fsdp: int = 1
    model: int = 1
    fsdp_min_size: int = 2**16
    rules: tuple[tuple[str, tuple[str | tuple[str, ...] | None, ...]], ...] = ()


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh (replica, data, fsdp, model) over `devices`, by default all of them.

    On several TPU slices replica runs across them, and the other axes inside each. Raises ValueError where the sizes do not
    multiply to the number of devices, or where replica is not a multiple of the slices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {axis: getattr(config, axis) for axis in AXES}
    if any(size == 0 or size < -1 for size in sizes.values()) or list(sizes.values()).count(-1) > 1:
        raise ValueError(f"mesh {sizes}: each size is a positive number, and at most one is -1 (all that are left)")
    known = int(np.prod([size for size in sizes.values() if size > 0]))
    free, rest = divmod(len(devices), known)
    if rest or (-1 not in sizes.values() and free != 1):
        raise ValueError(
            f"mesh {sizes} does not fit {len(devices)} devices; the sizes must multiply to {len(devices)}, "
            "and one of them may be -1"
        )
    shape = tuple(free if size == -1 else size for size in sizes.values())
    return Mesh(_arranged(shape, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _arranged(shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    """The devices in this shape, neighbours along the last axes being close in the network."""
    tpu = devices[0].platform == "tpu"
    slices = len({getattr(device, "slice_index", None) for device in devices}) if tpu else 1
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    if shape[0] % slices:
        raise ValueError(
            f"mesh.replica is {shape[0]}, and the {len(devices)} devices lie in {slices} slices; replica runs across slices "
            f"and must be a multiple of {slices}"
        )
    inside, across = (shape[0] // slices, *shape[1:]), (slices, *[1] * (len(shape) - 1))
    return mesh_utils.create_hybrid_device_mesh(inside, across, devices, allow_split_physical_axes=True)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading dimension cut along (replica, data, fsdp), copied along model."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def batch_shards(mesh: Mesh) -> int:
    """Parts that a batch is cut into: devices but for those along model, which hold the same rows."""
    return mesh.devices.size // mesh.shape[MODEL]


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on each device."""
    return NamedSharding(mesh, PartitionSpec())


def keep_batch_cut(x: jax.Array, model: int | None = None) -> jax.Array:
    """[B, ...] as it is, its placement [B@(replica, data, fsdp), ...] fixed where a mesh is set, for it and its gradient.

    model: a dimension that is cut along the axis `model` where it divides; all others are whole. Left to itself, the
    compiler sometimes cuts activations along features, as the weights are, and pays with all-to-alls.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    axes: list[Any] = [BATCH, *[None] * (x.ndim - 1)]
    if model is not None and cuts_along_model(x.shape[model]):
        axes[model] = MODEL
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))


def cuts_along_model(size: int) -> bool:
    """Whether a dimension of this size is cut along the axis `model` of the mesh that is set."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.shape[MODEL] > 1 and size % mesh.shape[MODEL] == 0


def parameter_shardings(params: Any, mesh: Mesh, config: MeshConfig) -> Any:
    """A tree of NamedSharding for a tree of (abstract) parameters.

    The general rule: an array of two or more dimensions is cut over `fsdp` along its input dimension, the last but one;
    where that does not divide, along its last one; else it is copied. Layers stacked for a scan, [layers, in, out] under a
    name `blocks`, are cut inside each layer, so that the scan gathers one layer at a time. Along `model` lie the hidden units
    of MLPs and the rows of attention's output projection, where they divide; there fsdp takes the other dimension.

    Raises ValueError where a rule has more entries than the array has dimensions, names an unknown axis, does not
    divide, names an axis twice, or matches no parameter.
    """
    used: set[str] = set()

    def place(path: str, leaf: Any) -> NamedSharding:
        for pattern, axes in config.rules:
            if re.fullmatch(pattern, path):
                used.add(pattern)
                return NamedSharding(mesh, _checked_rule(pattern, axes, path, leaf.shape, mesh))
        if path.startswith("distill/"):  # heads of distillation terms are small, and read whole
            return replicated(mesh)
        return NamedSharding(mesh, _general_rule(path, leaf.shape, mesh, config.fsdp_min_size))

    shardings = tree.map_with_path(place, params)
    if unused := sorted({pattern for pattern, _ in config.rules} - used):
        raise ValueError(f"mesh.rules {unused} match no parameter; paths look like {tree.paths(params)[:3]}")
    return shardings


def shardings_like(state: Any, params: Any, shardings: Any) -> Any:
    """Shardings for a tree that holds copies of the parameters (moments, averages) among scalars and other statistics.

    A leaf whose path ends in a parameter's path and that has its shape lies where the parameter lies; the rest is copied.
    """
    known = {
        path: (leaf.shape, sharding)
        for path, leaf, sharding in zip(
            tree.paths(params), jax.tree.leaves(params), jax.tree.leaves(shardings), strict=True
        )
    }
    mesh = next(iter(known.values()))[1].mesh

    def place(path: str, leaf: Any) -> NamedSharding:
        names = path.split("/")
        for start in range(len(names)):
            shape, sharding = known.get("/".join(names[start:]), (None, None))
            if shape == leaf.shape:
                return sharding
        return replicated(mesh)

    return tree.map_with_path(place, state)


def _general_rule(path: str, shape: tuple[int, ...], mesh: Mesh, min_size: int) -> PartitionSpec:
    axes: list[str | None] = [None] * len(shape)
    if mesh.shape[MODEL] > 1:
        for pattern, dimension in _ALONG_MODEL:
            if re.fullmatch(pattern, path) and shape[dimension] % mesh.shape[MODEL] == 0:
                axes[dimension] = MODEL
    own = len(shape) - ("blocks" in path.split("/"))  # dimensions of one layer
    if mesh.shape[FSDP] > 1 and own > 1 and np.prod(shape) >= min_size:
        free = [i for i in (-2, -1) if axes[i] is None and shape[i] % mesh.shape[FSDP] == 0]
        if free:
            axes[free[0]] = FSDP
    while axes and axes[-1] is None:  # two placements are equal where they are written alike
        axes.pop()
    return PartitionSpec(*axes)


def _checked_rule(
    pattern: str, axes: tuple[str | tuple[str, ...] | None, ...], path: str, shape: tuple[int, ...], mesh: Mesh
) -> PartitionSpec:
    where = f"mesh.rules {(pattern, axes)} on {path} {shape}"
    if len(axes) > len(shape):
        raise ValueError(f"{where}: more entries than dimensions")
    named: list[str] = []
    for size, entry in zip(shape, axes, strict=False):
        names = () if entry is None else (entry,) if isinstance(entry, str) else entry
        if unknown := [axis for axis in names if axis not in mesh.shape]:
            raise ValueError(f"{where}: unknown axis {unknown[0]!r}; the mesh has {tuple(mesh.shape)}")
        devices = math.prod(mesh.shape[axis] for axis in names)
        if size % devices:
            raise ValueError(f"{where}: {size} does not split over {devices} devices of axis {entry!r}")
        named += names
    if twice := sorted({axis for axis in named if named.count(axis) > 1}):
        raise ValueError(f"{where}: axis {twice[0]!r} is named twice; an axis can cut one dimension only")
    return PartitionSpec(*axes)


def split_batch(batch_size: int, mesh: Mesh) -> int:
    """Samples a process reads of each global batch, B / processes whatever the mesh.

    Raises ValueError where the batch does not split over the devices; those along model count as one where they belong to
    one process.
    """
    parts = mesh.devices.size if _model_spans_processes(mesh) else batch_shards(mesh)
    whose = f"{parts} devices" if parts == mesh.devices.size else f"{parts} groups of {mesh.shape[MODEL]} devices"
    if batch_size < 1:
        raise ValueError(
            f"batch {batch_size} is empty; batch must be at least 1 and a multiple of {parts}, the {whose}"
        )
    if batch_size % parts:
        raise ValueError(f"batch {batch_size} does not split over {whose}; use a multiple of {parts}")
    return batch_size // jax.process_count()


def to_global(batch: Any, mesh: Mesh) -> Any:
    """Host arrays [B/processes, ...], this process's slice of the batch, to global arrays [B@(replica, data, fsdp), ...].

    Processes that share a group along model each bring other rows, which the group then gathers.
    """
    spans = _model_spans_processes(mesh)
    sharding = NamedSharding(mesh, PartitionSpec(AXES)) if spans else batch_sharding(mesh)
    arrays = jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, array), batch)
    return _gathered_along_model(mesh)(arrays) if spans else arrays


def _model_spans_processes(mesh: Mesh) -> bool:
    groups = mesh.devices.reshape(-1, mesh.shape[MODEL])
    return any(len({device.process_index for device in group}) > 1 for group in groups)


@functools.cache
def _gathered_along_model(mesh: Mesh) -> Any:
    return jax.jit(lambda batch: batch, out_shardings=batch_sharding(mesh))
