"""Weights in fewer bits, and back."""

import numpy as np
import pytest

from clip_jax.interop.packing import Quantized, flattened, packed, quantized, restored

_RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("shape", "rows", "scales"),
    [
        ((8, 5), False, (1, 5)),
        ((3, 8, 5), False, (3, 1, 5)),
        ((3, 3, 4, 5), False, (1, 1, 1, 5)),
        ((9, 4), True, (9, 1)),
    ],
)
def test_each_output_has_a_scale_and_errors_are_within_half_a_step(shape, rows, scales):
    array = _RNG.normal(size=shape).astype(np.float32)
    found = quantized(array, rows=rows)
    assert found.scale.shape == scales
    assert found.values.dtype == np.int8
    assert np.abs(found.values).max() == 127
    assert (np.abs(found.values * found.scale - array) <= found.scale * 0.5001).all()


def test_zeros_stay_zeros():
    found = quantized(np.zeros((4, 3), np.float32))
    assert not found.values.any()
    assert np.isfinite(found.scale).all()


def test_int8_is_for_kernels_and_tables_alone():
    kernel = _RNG.normal(size=(4, 6)).astype(np.float32)
    assert isinstance(packed("text/proj/kernel", kernel, "int8"), Quantized)
    assert packed("text/token_embedding", kernel, "int8").scale.shape == (4, 1)
    for path, array in (("visual/bias", kernel[0]), ("visual/positional_embedding", kernel)):
        assert packed(path, array, "int8") is array
    assert packed("visual/bias", kernel[0], "f16").dtype == np.float16
    assert packed("logit_scale", np.float32(2.5), "f16").dtype == np.float32


def test_what_is_flattened_is_restored():
    kernel, bias = _RNG.normal(size=(4, 6)).astype(np.float32), np.ones(6, np.float16)
    state = flattened({"a/kernel": quantized(kernel), "a/bias": bias})
    assert sorted(state) == ["a/bias", "a/kernel", "a/kernel_scale"]
    back = restored(state)
    assert sorted(back) == ["a/bias", "a/kernel"]
    assert back["a/kernel"].dtype == np.float32
    np.testing.assert_allclose(back["a/kernel"], kernel, atol=np.abs(kernel).max() / 127)
    assert back["a/bias"] is bias
