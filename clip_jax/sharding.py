"""Where arrays live: the mesh, the placement rules of parameters, and the road from host batches to global arrays."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from clip_jax import tree

DATA = "data"  # parameters are copied along it
FSDP = "fsdp"  # parameters are cut along it
BATCH = (DATA, FSDP)  # the batch is cut along both


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Sizes of the mesh axes, -1 for "all devices that are left", and the rule that cuts parameters.

    fsdp_min_size: parameters with fewer elements are copied, since gathering them costs more than it saves.
    rules: pairs (regex of a parameter's path, one axis name or None a dimension); the first that matches the whole path
    wins, before the general rule.
    """

    data: int = -1
    fsdp: int = 1
    fsdp_min_size: int = 2**16
    rules: tuple[tuple[str, tuple[str | None, ...]], ...] = ()


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh (data, fsdp) over `devices`, by default all of them.

    Raises ValueError where the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {DATA: config.data, FSDP: config.fsdp}
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
    return jax.make_mesh(shape, BATCH, axis_types=(AxisType.Auto,) * 2, devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading dimension cut over all devices."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on each device."""
    return NamedSharding(mesh, PartitionSpec())


def keep_batch_cut(x: jax.Array) -> jax.Array:
    """[B, ...] as it is, its placement [B@(data, fsdp), ...] fixed where a mesh is set, for it and its gradient.

    Left to itself, the compiler sometimes cuts activations along features, as the weights are, and pays with all-to-alls.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH))


def parameter_shardings(params: Any, mesh: Mesh, config: MeshConfig) -> Any:
    """A tree of NamedSharding for a tree of (abstract) parameters.

    The general rule: an array of two or more dimensions is cut over `fsdp` along its input dimension, the last but one;
    where that does not divide, along its last one; else it is copied. Layers stacked for a scan, [layers, in, out], are
    cut inside each layer, so that the scan gathers one layer at a time.

    Raises ValueError where a rule has more entries than the array has dimensions, names an unknown axis, does not
    divide, or matches no parameter.
    """
    used: set[str] = set()

    def place(path: str, leaf: Any) -> NamedSharding:
        for pattern, axes in config.rules:
            if re.fullmatch(pattern, path):
                used.add(pattern)
                return NamedSharding(mesh, _checked_rule(pattern, axes, path, leaf.shape, mesh))
        if path.startswith("distill/"):  # heads of distillation terms are small, and read whole
            return replicated(mesh)
        return NamedSharding(mesh, _general_rule(leaf.shape, mesh.shape[FSDP], config.fsdp_min_size))

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


def _general_rule(shape: tuple[int, ...], shards: int, min_size: int) -> PartitionSpec:
    if shards == 1 or len(shape) < 2 or np.prod(shape) < min_size:
        return PartitionSpec()
    for dimension in (len(shape) - 2, len(shape) - 1):
        if shape[dimension] % shards == 0:
            return PartitionSpec(*([None] * dimension), FSDP)
    return PartitionSpec()


def _checked_rule(
    pattern: str, axes: tuple[str | None, ...], path: str, shape: tuple[int, ...], mesh: Mesh
) -> PartitionSpec:
    where = f"mesh.rules {(pattern, axes)} on {path} {shape}"
    if len(axes) > len(shape):
        raise ValueError(f"{where}: more entries than dimensions")
    for size, axis in zip(shape, axes, strict=False):
        if axis is not None and axis not in mesh.shape:
            raise ValueError(f"{where}: unknown axis {axis!r}; the mesh has {tuple(mesh.shape)}")
        if axis is not None and size % mesh.shape[axis]:
            raise ValueError(f"{where}: {size} does not split over {mesh.shape[axis]} devices of axis {axis!r}")
    return PartitionSpec(*axes)


def split_batch(batch_size: int, mesh: Mesh) -> int:
    """Samples a process reads of each global batch. Raises ValueError where the batch does not split over the devices."""
    devices = mesh.devices.size
    if batch_size < 1:
        raise ValueError(
            f"batch {batch_size} is empty; batch must be at least 1 and a multiple of {devices}, the devices"
        )
    if batch_size % devices:
        raise ValueError(f"batch {batch_size} does not split over {devices} devices; use a multiple of {devices}")
    return batch_size // jax.process_count()


def to_global(batch: Any, mesh: Mesh) -> Any:
    """Host arrays [B/processes, ...], this process's slice of the batch, to global arrays [B@(data, fsdp), ...]."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, array), batch)
