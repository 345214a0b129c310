"""Multiply-adds against the published ones."""

import pytest

from clip_jax.models.flops import macs_per_pair, train_flops_per_pair
from clip_jax.models.presets import preset


# GMACs a pair by which the published rates of the LAION scaling-laws runs are read.
@pytest.mark.parametrize(
    ("name", "gmacs"), [("ViT-B-32", 7.4), ("ViT-B-16", 20.57), ("ViT-L-14", 87.73), ("ViT-H-14", 190.97)]
)
def test_published_multiply_adds(name, gmacs):
    found = macs_per_pair(preset(name))
    assert found / 1e9 == pytest.approx(gmacs, rel=0.003)
    assert train_flops_per_pair(preset(name)) == 6 * found
