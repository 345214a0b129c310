"""What the devices of a compiled program send to each other: how much, along which mesh axes, how far, and how often."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from clip_jax.plan.hlo import Instruction, Program

_KINDS = ("all-gather", "reduce-scatter", "all-reduce", "collective-permute", "all-to-all")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """kind: as XLA calls it. axes: of the mesh, along which its groups reach. size: devices of a group. bytes: of the whole
    array: gathered, reduced or passed on. times: runs a step. asynchronous: whether the compiler lets it run beside other
    work. span: devices of a group along each axis of a TPU's slice, or of a node of GPUs and over nodes. load: of an array
    that each device passes on, how many cross the busiest link between TPU chips, over the devices of a chip.
    """

    kind: str
    axes: tuple[str, ...]
    size: int
    bytes: int
    times: int
    asynchronous: bool
    span: tuple[int, ...]
    load: float = 0.0

    @property
    def sent(self) -> float:
        """Bytes a device sends in a step, by the ring algorithms: (g - 1) / g of the array, twice for an all-reduce."""
        share = {"collective-permute": 1.0, "all-reduce": 2 * (self.size - 1) / self.size}
        return self.times * self.bytes * share.get(self.kind, (self.size - 1) / self.size)


def collectives(
    program: Program, mesh: Mapping[str, int], places: Sequence[Sequence[int]], rings: Sequence[int]
) -> list[Collective]:
    """All of a program, those of one device alone left out. mesh: axis -> size. places: where each device of the mesh, in its
    order, lies. rings: lengths of the axes of a TPU's slice that close into rings, 0 for those that do not; () for GPUs."""
    found, chains = [], set()
    where = np.asarray(places)
    for name, times in program.runs.items():
        for one in program.computations[name]:
            kind = one.opcode.removesuffix("-start")
            if kind not in _KINDS or (chain := _chain(one)) in chains:
                continue
            if chain:  # an asynchronous collective is printed again in each fusion that it runs beside
                chains.add(chain)
            if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"
            pairs = _pairs(one)
            groups = np.asarray(pairs) if pairs else _groups(one, mesh)
            if groups.shape[1] < 2:
                continue
            size = len(where) if pairs else groups.shape[1]
            found.append(
                Collective(
                    kind=kind,
                    axes=_axes(groups, mesh),
                    size=size,
                    bytes=_bytes(one, kind, size, whole=name.startswith("all-reduce-scatter")),
                    times=times,
                    asynchronous=bool(chain) or one.opcode.endswith("-start") or _inside_start(program, name),
                    span=_span(where, groups, each_alike=not pairs),
                    load=_load(where, groups, rings) if pairs else 0.0,
                )
            )
    return found


def _chain(one: Instruction) -> str:
    chain = re.search(r'chain_id="(\d+)"', one.rest)
    return f"{chain[1]} {one.opcode} {[shape.sizes for shape in one.shapes]}" if chain else ""


def _inside_start(program: Program, name: str) -> bool:
    callers = (one for each in program.computations.values() for one in each if one.opcode == "async-start")
    return any(name in one.called() for one in callers)


def _bytes(one: Instruction, kind: str, size: int, *, whole: bool) -> int:
    """Of the whole array; the result of a started operation holds its operand, too."""
    if kind == "collective-permute":
        return one.shapes[0].bytes if one.opcode.endswith("-start") else one.bytes
    if kind == "all-gather" and one.opcode.endswith("-start"):
        return one.bytes * size // (size + 1)
    return one.bytes * size if kind == "reduce-scatter" and not whole else one.bytes


def _pairs(one: Instruction) -> list[list[int]]:
    pairs = re.search(r"source_target_pairs=\{(.*?\})\}", one.rest)
    return [list(map(int, pair)) for pair in re.findall(r"\{(\d+),(\d+)\}", pairs[1])] if pairs else []


def _groups(one: Instruction, mesh: Mapping[str, int]) -> np.ndarray:
    """i32[groups, devices of each], of any of the forms in which XLA prints them. Raises ValueError for another."""
    if "replica_groups=" not in one.rest or "replica_groups={}" in one.rest:
        return np.arange(np.prod(list(mesh.values())))[None]
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", one.rest):
        return _iota(iota[2]).reshape(_numbers(iota[1]))
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^{]*)\))? \{([^}]*)\}", one.rest):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        groups = _along(sizes, re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", named[3]))
        return (_iota(named[2]) if named[2] else np.arange(groups.size))[groups]
    if listed := re.search(r"replica_groups=\{(\{[\d,{}]*\})\}", one.rest):
        return np.asarray([_numbers(group) for group in re.findall(r"\{([\d,]+)\}", listed[1])])
    raise ValueError(f"{one.name}: no known form of replica_groups in {one.rest[:200]!r}")


def _iota(text: str) -> np.ndarray:
    """Devices in order of "[4,2]T(1,0)", a transposed count, or of "0,2,1,3"."""
    shape = re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if not shape:
        return np.asarray(_numbers(text))
    counted = np.arange(np.prod(_numbers(shape[1]))).reshape(_numbers(shape[1]))
    return counted.transpose(_numbers(shape[2]) if shape[2] else None).ravel()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _along(sizes: Mapping[str, int], along: Sequence[tuple[str, str, str]]) -> np.ndarray:
    """Groups along named axes; an axis may be one factor of a longer one, printed as 'axis':(product before)size."""
    dims: list[tuple[str, int]] = []
    for name, size in sizes.items():
        factors = [(int(before), int(inner)) for axis, before, inner in along if axis == name and before]
        left = size
        for before, inner in sorted(factors):
            if (outer := left * before // size) > 1:
                dims.append(("", outer))
            dims.append((f"{name}:{before}", inner))
            left = size // (before * inner)
        if left > 1 or not factors:
            dims.append((name if not factors else "", left))
    names = [f"{axis}:{before}" if before else axis for axis, before, _ in along]
    inner = [place for wanted in names for place, (name, _) in enumerate(dims) if name == wanted]
    outer = [place for place in range(len(dims)) if place not in inner]
    shape = tuple(size for _, size in dims)
    each = int(np.prod([shape[place] for place in inner]))
    return np.arange(np.prod(shape)).reshape(shape).transpose(outer + inner).reshape(-1, each)


def _axes(groups: np.ndarray, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """Along which any group's members differ."""
    at = np.unravel_index(groups, tuple(mesh.values()))
    return tuple(name for name, along in zip(mesh, at, strict=True) if (along != along[:, :1]).any())


def _span(where: np.ndarray, groups: np.ndarray, *, each_alike: bool) -> tuple[int, ...]:
    """Places of the first group along each axis; of pairs, which are not alike, the most of any."""
    chosen = groups[:1] if each_alike else groups
    along = np.moveaxis(where[chosen], -1, 0)  # [axis, group, member]
    return tuple(max(len(np.unique(members)) for members in each) for each in along)


def _load(where: np.ndarray, pairs: np.ndarray, rings: Sequence[int]) -> float:
    """Arrays over the busiest link, each going along one axis after the other, around a ring where that is shorter."""
    at, goal = where[pairs[:, 0]].copy(), where[pairs[:, 1]]
    crossed = []
    for axis, ring in enumerate(rings):
        far = goal[:, axis] - at[:, axis]
        if ring:
            far = (far + ring // 2) % ring - ring // 2
        while far.any():
            step = np.sign(far)
            crossed.append(np.column_stack([at, np.full_like(step, axis), step])[step != 0])
            at[:, axis] = (at[:, axis] + step) % ring if ring else at[:, axis] + step
            far -= step
    if not crossed:
        return 0.0
    most = np.unique(np.concatenate(crossed), axis=0, return_counts=True)[1].max()
    return float(most) * len(np.unique(where, axis=0)) / len(where)


def by_kind_and_axes(found: Sequence[Collective]) -> Iterator[tuple[str, tuple[str, ...], float, int]]:
    """(kind, axes, bytes a device sends in a step, operations in a step), most bytes first."""
    keys = {(one.kind, one.axes) for one in found}
    rows = [(*key, [one for one in found if (one.kind, one.axes) == key]) for key in keys]
    totals = [(kind, axes, sum(one.sent for one in ones), sum(one.times for one in ones)) for kind, axes, ones in rows]
    yield from sorted(totals, key=lambda row: -row[2])
