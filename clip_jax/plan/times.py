"""How long a step would take: a model of three resources with published peaks, and the compiler's own estimate.

    products = FLOPs of the program / peak          memory = bytes moved in HBM / bandwidth
    wire = sum over collectives of bytes sent / (links its group can use x bandwidth of one)

The bound takes all as perfectly overlapped, each at its peak: max(products, memory, busiest links); for GPUs, whose programs
are not there to count what they move, without memory. Collectives along different axes of the torus may overlap, too: of any
set of axes, the busiest links carry what cannot go elsewhere, the collectives whose groups reach along these axes alone. So
the bound is the least time of these products, bytes and ring algorithms; a program that moves or sends less may beat it.
What is predicted is work + exposed wire, one collective after the other.
Work is the TPU compiler's own estimate of its program in cycles, over the chip's clock; where there is none, products +
memory, as if neither hid the other. Exposed are the collectives that the compiler runs by themselves, and what the
asynchronous ones take beyond all work. Host, input and start-up count nothing. None of this was measured on the chips; it
compares layouts, and it says what cannot be.

Links. A group that reaches along k axes of a TPU's torus rings through them in both directions, 2 k links, and k where an
axis does not close into a ring (Pod.rings). Of arrays passed on, the busiest link counts (Collective.load). GPUs of one
node share NVLink; a ring through several nodes leaves each by one network adapter a member.
"""

import dataclasses
import itertools
from collections.abc import Sequence

from clip_jax.experiment import TrainConfig
from clip_jax.models.flops import train_flops_per_pair
from clip_jax.plan.chips import Pod
from clip_jax.plan.collectives import Collective
from clip_jax.plan.compiled import Compiled


@dataclasses.dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds of a step; see the module's formulas. model_flops: of forward and backward, without recomputation and loss,
    over all devices. mfu, mfu_bound: these over what the chips could compute in `step` and in `bound`."""

    products: float
    memory: float
    wire: float
    busiest: float
    exposed: float
    work: float
    step: float
    bound: float
    model_flops: float
    mfu: float
    mfu_bound: float


def times(compiled: Compiled, config: TrainConfig, pod: Pod) -> Times:
    """Of a compiled step on a pod."""
    chip, share = pod.chip, pod.size / compiled.devices  # of a chip that is one device
    products = compiled.products / compiled.devices / (chip.flops * share)
    memory = compiled.hbm / (chip.bandwidth * share)
    each = [(one, wire_seconds(one, pod) / share) for one in compiled.collectives]  # devices of a chip share its links
    wire = sum(seconds for _, seconds in each)
    work = compiled.cycles / chip.clock if chip.clock and compiled.cycles else products + memory
    beside = sum(seconds for one, seconds in each if one.asynchronous)
    exposed = wire - beside + max(0.0, beside - work)
    busiest = busiest_seconds(compiled.collectives, pod) / share
    bound = max(products, memory if pod.is_tpu else 0.0, busiest)
    flops = float(train_flops_per_pair(config.model) * config.batch_size)
    peak = chip.flops * pod.size
    return Times(
        products=products,
        memory=memory,
        wire=wire,
        busiest=busiest,
        exposed=exposed,
        work=work,
        step=work + exposed,
        bound=bound,
        model_flops=flops,
        mfu=flops / (peak * (work + exposed)),
        mfu_bound=flops / (peak * bound),
    )


def wire_seconds(one: Collective, pod: Pod) -> float:
    """Seconds a step for what this collective sends, at published bandwidths."""
    chip = pod.chip
    if not pod.is_tpu:
        inside, nodes = one.span
        if nodes == 1:
            return one.sent / chip.link
        adapters = 1 if one.kind == "collective-permute" else inside
        return one.sent / min(chip.link, adapters * chip.network)
    if one.kind == "collective-permute":
        return one.sent * one.load / chip.link
    return one.sent / (max(sum(_links(one, pod).values()), 1) * chip.link)


def busiest_seconds(found: Sequence[Collective], pod: Pod) -> float:
    """Seconds a step that the busiest links are needed, whatever overlaps: the most of any collective, and of any set of
    links, for all that can use no others."""
    each = [(wire_seconds(one, pod), _links(one, pod)) for one in found]
    used = sorted({name for _, links in each for name in links})
    there = {name: 2 if pod.is_tpu and pod.rings[name] else 1 for name in used}
    sets = [set(chosen) for number in range(1, len(there) + 1) for chosen in itertools.combinations(there, number)]
    most = max((seconds for seconds, _ in each), default=0.0)
    for chosen in sets:
        needed = sum(seconds * sum(links.values()) for seconds, links in each if chosen >= set(links))
        most = max(most, needed / sum(there[name] for name in chosen))
    return most


def _links(one: Collective, pod: Pod) -> dict[int, int]:
    """Links that a device uses at once, along each axis of a TPU's torus; of GPUs, those of a node (0) or the network (1)."""
    if not pod.is_tpu:
        return {int(one.span[1] > 1): 1}
    reached = [
        (axis, closes and size == whole)
        for axis, (size, whole, closes) in enumerate(zip(one.span, pod.shape, pod.rings, strict=False))
        if size > 1
    ]
    return {axis: 2 if closes and one.kind != "collective-permute" else 1 for axis, closes in reached}
