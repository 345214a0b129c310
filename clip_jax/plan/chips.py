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

    wraps: for TPUs, the length from which a torus axis closes into a ring; 0 for GPUs. network: for GPUs, bytes/s one way
    between nodes, a GPU. node: GPUs a node. clock: Hz of the units whose cycles the compiler counts, 0 where it follows from
    no published figure. halves: JAX devices a chip.
    """

    flops: float
    memory: float
    bandwidth: float
    link: float
    kinds: tuple[str, ...]
    wraps: int = 0
    shapes: tuple[str, ...] = ()
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
    cubes: bool = False,
    clock: float = 0.0,
    halves: int = 1,
) -> Chip:
    """Of TFLOP/s, GiB, GB/s, GB/s and GHz. cubes: in three dimensions, else two."""
    wraps, shapes = (4, _CUBES) if cubes else (16, _FLAT)
    rates = (peak * 1e12, memory * 2**30, bandwidth * 1e9, link * 1e9)
    return Chip(*rates, kinds, wraps=wraps, shapes=shapes, clock=clock * 1e9, halves=halves)


def _gpu(peak: float, memory: float, bandwidth: float, link: float, kinds: tuple[str, ...], *, network: float) -> Chip:
    """Of TFLOP/s, GB and three times GB/s."""
    return Chip(peak * 1e12, memory * 1e9, bandwidth * 1e9, link * 1e9, kinds, network=network * 1e9)


# TPU: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, "System architecture"; v4's links: Jouppi et al. 2023, "TPU v4: An
# Optically Reconfigurable Supercomputer", table 4. The documents give both directions of all links of a chip together
# (400, 1,200, 800, 1,200 GB/s for v5e, v5p, v6e, TPU7x). Slices whose axes are multiples of 4 (16 for v5e and v6e) close
# into tori. Clocks: the peak over the FLOPs a cycle of 4 matrix units of 128 x 128 a core, 1 core (v5e) or 2 (v4, v5p).
# GPU, SXM boards, dense, without sparsity: NVIDIA's data sheets of A100 80GB (2021), H100 (2023), H200 (2024), DGX B200
# (2024, an eighth of a system); NVLink is given there for both directions. network: one adapter a GPU of DGX A100
# (200 Gb/s), H100, H200 and B200 (400 Gb/s).
CHIPS = {
    "v4": _tpu(275, 32, 1200, 50, ("TPU v4",), cubes=True, clock=1.05),
    "v5e": _tpu(197, 16, 819, 50, ("TPU v5 lite", "TPU v5e"), clock=1.5),
    "v5p": _tpu(459, 95, 2765, 100, ("TPU v5", "TPU v5p"), cubes=True, clock=1.75),
    "v6e": _tpu(918, 32, 1638, 100, ("TPU v6 lite", "TPU v6e")),
    "tpu7x": _tpu(2307, 192, 7380, 100, ("TPU7x",), cubes=True, halves=2),
    "a100": _gpu(312, 80, 2039, 300, ("NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-40GB"), network=25),
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
        return bool(self.chip.wraps)

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
    if not chip.wraps:
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
    return Pod(name=name, shape=tuple(map(int, shape.split("x"))))


def nearest_shapes(pod: Pod) -> str:
    """Usual pods of this chip, nearest in size first: "v5e:8x16, v5e:16x16, v5e:8x8"."""
    sizes = {shape: math.prod(map(int, shape.split("x"))) for shape in pod.chip.shapes}
    order = sorted(sizes, key=lambda shape: abs(math.log(sizes[shape] / pod.size)))
    return ", ".join(f"{pod.name}:{shape}" for shape in order[:3])
