"""Sizes are those of the model itself."""

import numpy as np
import pytest

from clip_jax.models.clip import abstract_params, count_parameters
from clip_jax.models.presets import preset
from clip_jax.models.size import size


@pytest.mark.parametrize("name", ["tiny", "RN50"])
def test_sizes_are_the_models_own(name):
    config = preset(name)
    found, params = size(config), abstract_params(config)
    numbers = {key: sum(np.prod(leaf.shape) for leaf in leaves(params[key])) for key in ("visual", "text")}
    statistics = found.stored - found.parameters
    assert found.parameters == count_parameters(config)
    assert (found.image + statistics, found.text) == (numbers["visual"], numbers["text"])
    assert (statistics > 0) == (name == "RN50")
    assert found.megabytes(32) == pytest.approx(4e-6 * found.stored)


def leaves(tree) -> list:
    return [leaf for branch in tree.values() for leaf in leaves(branch)] if isinstance(tree, dict) else [tree]
