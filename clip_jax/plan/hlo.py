"""Compiled programs as XLA prints them: computations, instructions, and how often each computation runs."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

_BITS = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0}
_SHAPE = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_NAME = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Shape:
    """dtype and sizes of an array. held: sizes with the padding of a TPU's tiles, where the layout has them. fast: whether
    the compiler put it into memory on the chip (a space other than HBM)."""

    dtype: str
    sizes: tuple[int, ...]
    held: tuple[int, ...]
    fast: bool = False

    @property
    def bytes(self) -> int:
        """Without padding."""
        return math.prod(self.sizes) * _bits(self.dtype) // 8

    @property
    def held_bytes(self) -> int:
        """0 where it does not lie in HBM."""
        return 0 if self.fast else math.prod(self.held) * _bits(self.dtype) // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """shapes: of its result, one an array of a tuple. operands: names. rest: attributes, as printed."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    rest: str
    root: bool

    @property
    def bytes(self) -> int:
        """Of its result."""
        return sum(shape.bytes for shape in self.shapes)

    def called(self) -> Iterator[str]:
        """Computations it runs once each: a fusion's, a call's, an asynchronous operation's."""
        if self.opcode in ("fusion", "call", "async-start", "custom-call"):
            yield from re.findall(r"(?:calls|to_apply|called_computations=\{)=?%([\w.\-]+)", self.rest)

    def branches(self) -> list[str]:
        """Computations of a conditional, of which it runs one; in any other instruction none."""
        if self.opcode != "conditional":
            return []
        listed = re.search(r"branch_computations=\{([^}]*)\}", self.rest)
        return _NAME.findall(listed[1] if listed else "") + re.findall(
            r"(?:true|false)_computation=%([\w.\-]+)", self.rest
        )


@dataclasses.dataclass(frozen=True)
class Program:
    """computations: by name. entry: the one that runs."""

    computations: Mapping[str, tuple[Instruction, ...]]
    entry: str

    @functools.cached_property
    def runs(self) -> Mapping[str, int]:
        """How often each computation runs: loops by their trip counts, fused ones as often as what they are fused into, of a
        conditional's branches the one that makes most bytes."""
        times: dict[str, int] = {}

        def visit(name: str, factor: int) -> None:
            times[name] = times.get(name, 0) + factor
            for one in self.computations[name]:
                if one.opcode == "while":
                    body = re.search(r"body=%([\w.\-]+)", one.rest)
                    assert body
                    visit(body[1], factor * self._trips(one))
                for called in one.called():
                    visit(called, factor)
                if branches := one.branches():
                    visit(max(branches, key=self._made), factor)

        visit(self.entry, 1)
        return times

    @functools.cached_property
    def fused(self) -> frozenset[str]:
        """Computations whose intermediate results never reach memory."""
        everyone = (one for each in self.computations.values() for one in each if one.opcode == "fusion")
        return frozenset(name for one in everyone for name in one.called())

    def _made(self, name: str) -> int:
        """Bytes of all results of a computation and of what it runs."""
        total = 0
        for one in self.computations[name]:
            total += one.bytes + sum(map(self._made, one.called())) + max(map(self._made, one.branches()), default=0)
            if one.opcode == "while" and (body := re.search(r"body=%([\w.\-]+)", one.rest)):
                total += self._trips(one) * self._made(body[1])
        return total

    def _trips(self, loop: Instruction) -> int:
        """As the program says, or the constant its counter is compared with; 1 where neither is there."""
        if known := re.search(r'known_trip_count[\\"]*:\s*\{[\\"]*n[\\"]*:[\\"]*(\d+)', loop.rest):
            return int(known[1])
        condition = re.search(r"condition=%([\w.\-]+)", loop.rest)
        assert condition
        bounds = [
            int(one.rest.removeprefix("number="))
            for one in self.computations[condition[1]]
            if one.opcode == "constant" and one.rest.startswith("number=")
        ]
        return max(bounds, default=1)


def parse(text: str) -> Program:
    """The text of compiled.as_text(). Raises ValueError for a text without an entry."""
    computations: dict[str, tuple[Instruction, ...]] = {}
    name, entry, body = "", "", []
    for line in text.splitlines():
        if head := _HEAD.match(line):
            name, body = head[2], []
            entry = name if head[1] else entry
        elif line.startswith("}") and name:
            computations[name], name = tuple(body), ""
        elif name and " = " in line:
            body.append(_instruction(line))
    if not entry:
        raise ValueError("the text holds no ENTRY computation; give what compiled.as_text() returns")
    return Program(computations, entry)


def shapes_in(text: str) -> tuple[Shape, ...]:
    """All arrays of a printed shape, a tuple's in order."""
    found = []
    for dtype, sizes, layout in _SHAPE.findall(text):
        whole = tuple(int(size) for size in re.findall(r"\d+", sizes))
        found.append(Shape(dtype, whole, _padded(whole, layout), bool(re.search(r"S\(\d+\)", layout))))
    return tuple(found)


def _padded(sizes: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """Sizes rounded up to the first tile of a layout such as 1,0:T(8,128)(2,1), whose dimensions are the fastest ones."""
    order, _, tiling = layout.partition(":")
    tile = re.search(r"T\(([\d,]+)\)", tiling)
    if not tile:
        return sizes
    held = list(sizes)
    fastest = map(int, re.findall(r"\d+", order))
    for dimension, step in zip(fastest, reversed(tile[1].split(",")), strict=False):
        held[dimension] = -(-held[dimension] // int(step)) * int(step)
    return tuple(held)


def _instruction(line: str) -> Instruction:
    left, _, right = line.strip().partition(" = ")
    root, name = left.startswith("ROOT "), left.removeprefix("ROOT ").lstrip("%")
    end = _closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    shape, right = right[:end], right[end:].lstrip()
    opcode, _, _ = right.partition("(")
    close = _closing(right, len(opcode))
    inside, rest = right[len(opcode) + 1 : close], right[close + 1 :]
    if opcode in ("constant", "parameter") and inside.isdigit():  # what a loop's bound is, and a parameter's place
        rest = f"number={inside}"
    return Instruction(name, opcode, shapes_in(shape), tuple(_NAME.findall(inside)), rest, root)


def _closing(text: str, start: int) -> int:
    """Place of the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError(f"no closing parenthesis in {text[start : start + 80]!r}")


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    width = re.search(r"\d+", dtype)  # f8e4m3fn, s32, u4, c64
    return int(width[0]) if width else 32
