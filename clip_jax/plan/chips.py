"""The chips a pod is made of, with their published peaks, and pods by name: "v5e:16x16", "h100:64"."""

import dataclasses
import difflib
import math
import re

_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
    "2x2x1",
    "2x2x2",
    "2x2x4",
    "2x4x4",
    "4x4x4",
    "4x4x8",
    "4x8x8",
    "8x8x8",
    "8x8x16",
    "8x16x16",
    "16x16x16",
    "16x16x24",
)


@dataclasses.dataclass(frozen=True)
class Chip:
    """flops: peak of dense bf16 products, FLOP/s. memory: HBM, bytes. bandwidth: of HBM, bytes/s. link: bytes/s one way, of
    one torus link of a TPU; of all NVLinks of a GPU. kinds: what jax.Device.device_kind calls it.

    shapes: for TPUs, the slices that there are; of cubes, the usual ones. most: chips of the largest slice of cubes, 0 where
    `shapes` are all. network: for GPUs, bytes/s one way between nodes, a GPU. node: GPUs a node. clock: Hz of the units whose
    cycles the compiler counts, 0 where it follows from no published figure. halves: JAX devices a chip.
    """

    flops: float
    memory: float
    bandwidth: float
    link: float
    kinds: tuple[str, ...]
    shapes: tuple[str, ...] = ()
    most: int = 0
    network: float = 0.0
    node: int = 8
    clock: float = 0.0
    halves: int = 1


def _tpu(
    peak: float,
    memory: float,
    bandwidth: float,
    link: float,
    kinds: tuple[str, ...],
    *,
    most: int = 0,
    clock: float = 0.0,
    halves: int = 1,
) -> Chip:
    """Of TFLOP/s, GiB, GB/s, GB/s and GHz. most: chips of the largest slice in three dimensions; 0 for slices in two."""
    usual = _FLAT if not most else tuple(shape for shape in _CUBES if math.prod(_lengths(shape)) <= most)
    rates = (peak * 1e12, memory * 2**30, bandwidth * 1e9, link * 1e9)
    return Chip(*rates, kinds, shapes=usual, most=most, clock=clock * 1e9, halves=halves)


def _lengths(shape: str) -> tuple[int, ...]:
    """Chips along each axis of "16x16"."""
    return tuple(map(int, shape.split("x")))


def _gpu(peak: float, memory: float, bandwidth: float, link: float, kinds: tuple[str, ...], *, network: float) -> Chip:
    """Of TFLOP/s, GB and three times GB/s."""
    return Chip(peak * 1e12, memory * 1e9, bandwidth * 1e9, link * 1e9, kinds, network=network * 1e9)


# TPU: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, "System architecture"; v4's links: Jouppi et al. 2023, "TPU v4: An
# Optically Reconfigurable Supercomputer", table 4. The documents give both directions of all links of a chip together
# (400, 1,200, 800, 1,200 GB/s for v5e, v5p, v6e, TPU7x). Slices: the same pages' "Configurations", and /types-topologies for
# v4: axes A <= B <= C, all at most 4 or all multiples of 4; the largest have 4,096 (v4, a pod), 6,144 (v5p, "the maximum
# v5p shape is 16x16x24") and 9,216 chips (TPU7x, a pod); v5e and v6e have the listed ones alone. Clocks: the peak over the FLOPs
# a cycle of 4 matrix units of 128 x 128 a core, 1 core (v5e) or 2 (v4, v5p).
# GPU, SXM boards, dense, without sparsity: NVIDIA's data sheets of A100 (2021), H100 (2023), H200 (2024), DGX B200
# (2024, an eighth of a system); NVLink is given there for both directions. network: one adapter a GPU of DGX A100
# (200 Gb/s), H100, H200 and B200 (400 Gb/s).
CHIPS = {
    "v4": _tpu(275, 32, 1200, 50, ("TPU v4",), most=4096, clock=1.05),
    "v5e": _tpu(197, 16, 819, 50, ("TPU v5 lite", "TPU v5e"), clock=1.5),
    "v5p": _tpu(459, 95, 2765, 100, ("TPU v5", "TPU v5p"), most=6144, clock=1.75),
    "v6e": _tpu(918, 32, 1638, 100, ("TPU v6 lite", "TPU v6e")),
    "tpu7x": _tpu(2307, 192, 7380, 100, ("TPU7x",), most=9216, halves=2),
    "a100": _gpu(312, 80, 2039, 300, ("NVIDIA A100-SXM4-80GB",), network=25),
    "a100-40gb": _gpu(312, 40, 1555, 300, ("NVIDIA A100-SXM4-40GB",), network=25),
    "h100": _gpu(989.4, 80, 3350, 450, ("NVIDIA H100 80GB HBM3",), network=50),
    "h200": _gpu(989.4, 141, 4800, 450, ("NVIDIA H200",), network=50),
    "b200": _gpu(2250, 180, 8000, 900, ("NVIDIA B200",), network=50),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pod:
    """name: of the chip, a key of CHIPS. shape: chips along each axis of a TPU's torus, or (number,) of GPUs."""

    name: str
    shape: tuple[int, ...]

    @property
    def chip(self) -> Chip:
        """What each of its chips is."""
        return CHIPS[self.name]

    @property
    def is_tpu(self) -> bool:
        """Whether its programs are compiled by the TPU compiler."""
        return bool(self.chip.shapes)

    @property
    def rings(self) -> tuple[bool, ...]:
        """Which axes of a TPU's slice close into a ring; none of GPUs.

        Of v5e and v6e those of 16 chips (Austin et al. 2025, "How to Scale Your Model", part 2). Of v4, v5p and TPU7x all where
        the slice is made of whole cubes of 4 x 4 x 4, which optical switches join (Jouppi et al. 2023, section 2;
        cloud.google.com/tpu/docs/v4, "each dimension is a multiple of 4", and /v5p, "4x4x4 and larger slices"), else none.
        """
        if not self.is_tpu:
            return (False,) * len(self.shape)
        if not self.chip.most:
            return tuple(length == 16 for length in self.shape)
        return (all(length % 4 == 0 for length in self.shape),) * len(self.shape)

    @property
    def size(self) -> int:
        """Chips."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.name}:{'x'.join(map(str, self.shape))}"


def parse_pod(text: str) -> Pod:
    """The pod "v5e:16x16" or "h100:64". Raises ValueError that lists chips or shapes, the nearest first."""
    name, _, shape = text.strip().lower().partition(":")
    if name not in CHIPS:
        near = difflib.get_close_matches(name, CHIPS, n=1, cutoff=0.3)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"--topology {text!r}: no chip {name!r}{hint} There are {', '.join(CHIPS)}")
    chip = CHIPS[name]
    if not chip.shapes:
        if not re.fullmatch(r"[1-9]\d*", shape):
            raise ValueError(f"--topology {text!r}: give a number of GPUs, such as {name}:64")
        if int(shape) > chip.node and int(shape) % chip.node:
            below = int(shape) // chip.node * chip.node
            raise ValueError(
                f"--topology {text!r}: {shape} GPUs fill no whole nodes of {chip.node}; use {below} or {below + chip.node}"
            )
        return Pod(name=name, shape=(int(shape),))
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)+", shape) or shape.count("x") != chip.shapes[0].count("x"):
        raise ValueError(f"--topology {text!r}: shapes of {name} are such as {', '.join(chip.shapes)}")
    pod = Pod(name=name, shape=_lengths(shape))
    if shape not in chip.shapes and not _is_of_cubes(pod):
        rule = f" or A x B x C in ascending multiples of 4, of {chip.most:,} chips at most" if chip.most else ""
        raise ValueError(
            f"--topology {text!r}: there is no such slice; {name} has {', '.join(chip.shapes)}{rule}. "
            f"Near it are {nearest_shapes(pod)}"
        )
    return pod


def _is_of_cubes(pod: Pod) -> bool:
    multiples = all(length % 4 == 0 for length in pod.shape)
    return multiples and pod.size <= pod.chip.most and list(pod.shape) == sorted(pod.shape)


def nearest_shapes(pod: Pod) -> str:
    """Usual pods of this chip, nearest in size first: "v5e:8x16, v5e:16x16, v5e:8x8"."""
    sizes = {shape: math.prod(_lengths(shape)) for shape in pod.chip.shapes}
    order = sorted(sizes, key=lambda shape: abs(math.log(sizes[shape] / pod.size)))
    return ", ".join(f"{pod.name}:{shape}" for shape in order[:3])
