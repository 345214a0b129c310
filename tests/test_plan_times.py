"""The time model against figures by hand, and the search for settings that fit."""

import dataclasses
import math

import pytest

from clip_jax.experiment import TrainConfig
from clip_jax.models.flops import train_flops_per_pair
from clip_jax.plan.chips import parse_pod
from clip_jax.plan.collectives import Collective
from clip_jax.plan.compiled import Compiled, needed_bytes
from clip_jax.plan.fit import memory_of
from clip_jax.plan.times import busiest_seconds, times, wire_seconds


def collective(kind: str = "all-gather", *, span: tuple[int, ...], size: int = 16, **given) -> Collective:
    known = {"axes": ("fsdp",), "bytes": 16 * 10**9, "times": 1, "asynchronous": False}
    return Collective(kind=kind, size=size, span=span, **known | given)


@pytest.mark.parametrize(
    ("pod", "one", "seconds"),
    [
        ("v5e:16x16", collective(span=(16, 1, 1)), 15 / (2 * 50)),  # 15 GB of 16 by a ring of 2 links of 50 GB/s
        ("v5e:16x16", collective(span=(16, 16, 1), size=256), 16 * 255 / 256 / (4 * 50)),
        ("v5e:8x16", collective(span=(8, 1, 1), size=8), 14 / 50),  # 8 chips in a row do not close into a ring
        ("v5p:4x4x8", collective(span=(1, 4, 8), size=32), 15.5 / (4 * 100)),
        ("v5p:4x4x8", collective("all-reduce", span=(4, 4, 8), size=128), 2 * 16 * 127 / 128 / (6 * 100)),
        ("v5e:16x16", collective("collective-permute", span=(2, 1, 1), load=3.0), 16 * 3 / 50),
        ("v5p:2x4x4", collective(span=(1, 4, 4), size=16), 15 / (2 * 100)),  # less than a cube: nothing closes
        ("h100:64", collective(span=(8, 1), size=8), 14 / 450),
        ("h100:64", collective(span=(8, 8), size=64), 15.75 / 400),  # 8 adapters of 50 GB/s a node
        ("h100:64", collective(span=(1, 8), size=8), 14 / 50),
        ("h100:64", collective("collective-permute", span=(2, 2)), 16 / 50),
    ],
)
def test_seconds_on_the_wire(pod, one, seconds):
    assert wire_seconds(one, parse_pod(pod)) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("pod", "spans", "seconds"),
    [
        ("v5e:16x16", [(16, 1, 1), (16, 1, 1)], 0.3),  # both on the one axis
        ("v5e:16x16", [(16, 1, 1), (1, 16, 1)], 0.15),  # side by side
        ("v5e:16x16", [(16, 1, 1), (16, 1, 1), (16, 16, 1)], 0.3),  # what reaches along both can take the other axis
        ("v5e:16x16", [(16, 1, 1), (1, 16, 1), (16, 16, 1)], (2 * 15 + 16 * 255 / 256) / (4 * 50)),
        ("v5e:8x16", [(8, 1, 1), (1, 16, 1)], 14 / 50),  # the row that does not close
        ("h100:64", [(8, 1), (8, 8)], 15.75 / 400),  # NVLink beside the network
        ("h100:64", [(1, 8), (8, 8)], 14 / 50 + 15.75 / 400),
        ("v5e:16x16", [], 0.0),
    ],
)
def test_seconds_of_the_busiest_links(pod, spans, seconds):
    sizes = [math.prod(span) for span in spans]
    found = [collective(span=span, size=size) for span, size in zip(spans, sizes, strict=True)]
    assert busiest_seconds(found, parse_pod(pod)) == pytest.approx(seconds)


def test_arrays_passed_on_leave_the_other_direction_free():
    permute = collective("collective-permute", span=(16, 1, 1), load=1.0)
    assert busiest_seconds([permute, permute], parse_pod("v5e:16x16")) == pytest.approx(16 / 50)
    assert busiest_seconds([permute], parse_pod("v5e:16x16")) == pytest.approx(16 / 50)


def compiled(**given) -> Compiled:
    known = {
        "kind": "x",
        "devices": 256,
        "mesh": {"data": 256, "model": 1},
        "seconds": 1.0,
        "parameters": 0,
        "optimizer": 0,
    }
    return Compiled(**known | {"average": 0, "batch": 0, "products": 0} | given)


CONFIG = TrainConfig(batch_size=4096)


def test_times_of_a_step():
    blocking, beside = collective(span=(16, 1, 1)), collective(span=(16, 1, 1), asynchronous=True)
    step = compiled(
        products=int(256 * 197e12 * 0.2), hbm=int(819e9 * 0.1), cycles=int(1.5e9 * 0.4), collectives=(blocking, beside)
    )
    found = times(step, CONFIG, parse_pod("v5e:16x16"))
    assert found.products == pytest.approx(0.2)
    assert found.memory == pytest.approx(0.1)
    assert found.wire == pytest.approx(0.3)
    assert found.work == pytest.approx(0.4)  # the compiler's cycles at 1.5 GHz
    assert found.exposed == pytest.approx(0.15)
    assert found.step == pytest.approx(0.55)
    assert found.busiest == found.bound == pytest.approx(0.3)
    flops = train_flops_per_pair(CONFIG.model) * 4096
    assert found.mfu == pytest.approx(flops / (256 * 197e12 * 0.55))
    assert found.mfu_bound == pytest.approx(flops / (256 * 197e12 * 0.3))
    slower = times(dataclasses.replace(step, cycles=int(1.5e9 * 0.1)), CONFIG, parse_pod("v5e:16x16"))
    assert slower.exposed == pytest.approx(0.15 + 0.05)  # what the asynchronous one takes beyond all work


def test_without_cycles_products_and_memory_add_up():
    step = compiled(devices=64, products=int(64 * 989.4e12 * 0.2), hbm=int(3.35e12 * 0.3))
    found = times(step, CONFIG, parse_pod("h100:64"))
    assert found.work == pytest.approx(0.5)
    assert found.bound == pytest.approx(0.2)  # what GPUs move is not known well enough to bound anything


def test_a_device_that_is_half_a_chip_has_half_of_all():
    step = compiled(devices=128, products=int(64 * 2307e12 * 0.2), hbm=int(7.38e12 / 2 * 0.1))
    pod = parse_pod("tpu7x:4x4x4")
    assert times(step, CONFIG, pod).products == pytest.approx(0.2)
    assert times(step, CONFIG, pod).memory == pytest.approx(0.1)
    assert memory_of(pod, 128) == 96 * 2**30


def test_a_refusal_names_what_would_be_needed():
    said = "total memory required for HLO temporaries (24.81G) exceeds available HBM (15.75G). HLO module: jit_step."
    assert needed_bytes(said) == int(24.81 * 2**30)
    said = "Ran out of memory in memory space hbm. Used 21.95G of 15.48G hbm.\n\nTotal hbm usage >= 22.47G:\n reserved 530.00M"
    assert needed_bytes(said) == int(22.47 * 2**30)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 32.42M of 16.00M vmem.", "ran out of vmem"),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space smem. Used 1.00M; hbm 3.00G is there",
            "ran out of smem",
        ),
        ("RESOURCE_EXHAUSTED: Out of memory allocating 12.0G", "something else than HBM"),
        ("RESOURCE_EXHAUSTED: no figure of hbm", "not known whether this fits"),
    ],
)
def test_a_refusal_for_another_memory_is_no_figure(said, message):
    with pytest.raises(ValueError, match=message):
        needed_bytes(said)
