"""The table of chips, and pods by name."""

import pytest

from clip_jax.models.flops import PEAK_FLOPS
from clip_jax.plan.chips import CHIPS, Pod, nearest_shapes, parse_pod


@pytest.mark.parametrize("name", CHIPS)
def test_every_chip_is_whole(name):
    chip = CHIPS[name]
    assert min(chip.flops, chip.memory, chip.bandwidth, chip.link) > 0
    assert chip.kinds
    assert bool(chip.shapes) != bool(chip.network)
    assert 100 < chip.flops / chip.bandwidth < 700  # FLOPs a byte: a slipped digit would show
    assert 1 < chip.bandwidth / chip.link < 100


def test_the_chips_that_people_rent_are_there():
    assert list(CHIPS) == ["v4", "v5e", "v5p", "v6e", "tpu7x", "a100", "a100-40gb", "h100", "h200", "b200"]


@pytest.mark.parametrize(
    ("name", "tflops", "gigabytes", "bandwidth", "link"),
    [
        ("v4", 275, 34.36, 1200, 50),  # 32 GiB
        ("v5e", 197, 17.18, 819, 50),
        ("v5p", 459, 102.0, 2765, 100),
        ("v6e", 918, 34.36, 1638, 100),
        ("tpu7x", 2307, 206.2, 7380, 100),
        ("a100", 312, 80, 2039, 300),
        ("a100-40gb", 312, 40, 1555, 300),
        ("h100", 989.4, 80, 3350, 450),
        ("h200", 989.4, 141, 4800, 450),
        ("b200", 2250, 180, 8000, 900),
    ],
)
def test_published_figures(name, tflops, gigabytes, bandwidth, link):
    chip = CHIPS[name]
    assert (chip.flops, chip.bandwidth, chip.link) == pytest.approx((tflops * 1e12, bandwidth * 1e9, link * 1e9))
    assert chip.memory == pytest.approx(gigabytes * 1e9, rel=1e-3)


def test_mfu_in_training_reads_the_same_table():
    assert PEAK_FLOPS["TPU v5 lite"] == CHIPS["v5e"].flops == 197e12
    assert PEAK_FLOPS["NVIDIA H100 80GB HBM3"] == CHIPS["h100"].flops
    assert PEAK_FLOPS["TPU7x"] == CHIPS["tpu7x"].flops / 2  # a device of JAX is half a chip
    assert len(PEAK_FLOPS) == sum(len(chip.kinds) for chip in CHIPS.values())


def test_pods_by_name():
    pod = parse_pod("V5P:16x16x24")
    assert (str(pod), pod.size, pod.is_tpu) == ("v5p:16x16x24", 6144, True)
    gpus = parse_pod("h100:64")
    assert (str(gpus), gpus.size, gpus.is_tpu) == ("h100:64", 64, False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("v5x:16x16", r"no chip 'v5x'; did you mean 'v5[pe]'\? There are v4, .*b200"),
        ("zzzz:1", r"no chip 'zzzz'\. There are v4"),
        ("v5e", "shapes of v5e are such as 1x1, 2x2"),
        ("v5e:256", "shapes of v5e are such as"),
        ("v5p:16x16", "shapes of v5p are such as 2x2x1"),
        ("v5e:0x4", "shapes of v5e"),
        ("v5e:32x32", r"no such slice; v5e has 1x1, .*16x16\. Near it are v5e:16x16, v5e:8x16, v5e:8x8"),
        ("v5e:16x8", "no such slice"),
        ("v5e:6x6", "Near it are v5e:4x8, v5e:8x8, v5e:4x4"),
        ("v6e:16x32", "no such slice"),
        ("v5p:32x32x32", "ascending multiples of 4, of 6,144 chips at most"),
        ("v5p:16x20x28", "of 6,144 chips"),
        ("v5p:2x2x6", "no such slice"),
        ("v5p:6x6x6", "no such slice"),
        ("v5p:8x4x4", "no such slice"),
        ("v4:16x16x24", "of 4,096 chips at most.*Near it are v4:16x16x16"),
        ("h100", "number of GPUs, such as h100:64"),
        ("h100:8x8", "number of GPUs"),
        ("h100:20", "no whole nodes of 8; use 16 or 24"),
    ],
)
def test_what_is_no_pod(given, message):
    with pytest.raises(ValueError, match=message):
        parse_pod(given)


@pytest.mark.parametrize("name", [name for name in CHIPS if CHIPS[name].shapes])
def test_every_suggested_slice_is_accepted(name):
    for shape in CHIPS[name].shapes:
        assert str(parse_pod(f"{name}:{shape}")) == f"{name}:{shape}"


@pytest.mark.parametrize("name", ["v4:4x12x16", "v5p:12x12x24", "v5p:16x16x24", "tpu7x:16x16x36"])
def test_slices_of_whole_cubes(name):
    assert str(parse_pod(name)) == name


@pytest.mark.parametrize(
    ("name", "rings"),
    [
        ("v5e:16x16", (True, True)),
        ("v6e:8x16", (False, True)),
        ("v5e:8x8", (False, False)),
        ("v5p:4x4x8", (True, True, True)),
        ("v5p:2x4x4", (False, False, False)),  # less than a cube
        ("tpu7x:2x2x4", (False, False, False)),
        ("h100:64", (False,)),
    ],
)
def test_which_axes_close_into_rings(name, rings):
    assert parse_pod(name).rings == rings


def test_nearest_shapes():
    assert nearest_shapes(Pod(name="v5e", shape=(15, 16))) == "v5e:16x16, v5e:8x16, v5e:8x8"
