"""What a compiled program reads from and writes to HBM, and the cycles that the TPU compiler itself expects it to take."""

import re
from collections.abc import Mapping

from clip_jax.plan.hlo import Instruction, Program

# What moves nothing by itself: views, bookkeeping, and control flow, whose bodies are counted on their own.
_FREE = frozenset(
    (
        *(
            "parameter",
            "constant",
            "tuple",
            "get-tuple-element",
            "bitcast",
            "while",
            "call",
            "conditional",
            "after-all",
        ),
        *("partition-id", "replica-id", "iota", "copy-done", "slice-done", "async-start", "async-update", "async-done"),
        *("all-gather-done", "all-reduce-done", "collective-permute-done", "opt-barrier"),
    )
)
# What a fusion hands on unread: the buffers of a collective that runs beside it.
_PASSING = frozenset(
    ("tuple", "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "custom-call")
)


def hbm_bytes(program: Program) -> int:
    """Bytes a device moves in a step: each instruction's operands and results that lie in HBM, padding included, once a run.

    Of an operand of which only slices are taken (a layer of stacked ones), and of a result of which only a slice is
    written in place, the slices count.
    """
    total = 0
    for name, times in program.runs.items():
        if name in program.fused:
            continue
        known = {one.name: one for one in program.computations[name]}
        total += times * sum(_moved(program, one, known) for one in known.values())
    return total


def cycles(program: Program) -> int:
    """The sum of the TPU compiler's estimates, loops by their trips; 0 for programs of other compilers."""
    return sum(
        times * sum(_estimate(one) for one in program.computations[name])
        for name, times in program.runs.items()
        if name not in program.fused
    )


def _estimate(one: Instruction) -> int:
    found = re.search(r'"estimated_cycles":"(\d+)"', one.rest)
    return int(found[1]) if found else 0


def _moved(program: Program, one: Instruction, known: Mapping[str, Instruction]) -> int:
    if one.opcode in _FREE:
        return 0
    if one.opcode in ("dynamic-slice", "slice", "slice-start", "gather"):
        slow = one.shapes[1:] if one.opcode == "slice-start" else one.shapes
        return 2 * sum(shape.held_bytes for shape in slow)
    if one.opcode in ("dynamic-update-slice", "scatter"):
        return 2 * _hbm(known.get(one.operands[-2] if one.opcode == "scatter" else one.operands[1]))
    if one.opcode == "copy-start":  # between HBM and faster memory: of the pair, one lies in HBM
        return sum(shape.held_bytes for shape in one.shapes[:2])
    operands = [known.get(name) for name in one.operands]
    if one.opcode != "fusion":
        return _hbm(one) + sum(map(_hbm, operands))
    inside = program.computations[next(one.called())]
    read = sum(_read(inside, place, operand) for place, operand in enumerate(operands))
    return read + _written(inside, one)


def _hbm(one: Instruction | None) -> int:
    return sum(shape.held_bytes for shape in one.shapes) if one else 0


def _read(inside: tuple[Instruction, ...], place: int, operand: Instruction | None) -> int:
    """Bytes of a fusion's operand number `place` that it reads."""
    name = next((one.name for one in inside if one.opcode == "parameter" and one.rest == f"number={place}"), None)
    users = [one for one in inside if name in one.operands]
    if all(one.opcode in _PASSING for one in users):
        return 0
    if users and all(one.opcode == "dynamic-slice" and one.operands[0] == name for one in users):
        return min(_hbm(operand), sum(one.bytes for one in users))
    if users and all(one.opcode == "dynamic-update-slice" and one.operands[0] == name for one in users):
        return 0
    return _hbm(operand)


def _written(inside: tuple[Instruction, ...], fusion: Instruction) -> int:
    """Bytes of a fusion's results that it writes."""
    known = {one.name: one for one in inside}
    root = next((one for one in inside if one.root), None)
    leaves = [known.get(name) for name in root.operands] if root and root.opcode == "tuple" else [root]
    if len(leaves) != len(fusion.shapes):
        return _hbm(fusion)
    total = 0
    for leaf, shape in zip(leaves, fusion.shapes, strict=True):
        while leaf and leaf.opcode in ("bitcast", "copy") and leaf.operands[0] in known:
            leaf = known[leaf.operands[0]]
        update = known.get(leaf.operands[1]) if leaf and leaf.opcode == "dynamic-update-slice" else None
        if leaf is None or leaf.opcode not in ("parameter", *_PASSING):
            total += min(shape.held_bytes, update.bytes) if update else shape.held_bytes
    return total
