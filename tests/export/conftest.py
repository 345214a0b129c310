"""The small models, their parameters, and what they give for the samples."""

import pytest

from clip_jax.export.samples import known
from tests.export.models import CONFIGS, params_of


@pytest.fixture(scope="session")
def exported():
    """kind -> (config, parameters, samples), each made once."""
    made = {}

    def of(kind):
        if kind not in made:
            config = CONFIGS[kind]
            params = params_of(config)
            made[kind] = config, params, known(config, params)
        return made[kind]

    return of
