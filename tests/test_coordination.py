"""A process that never joined others is told so."""

import pytest

from clip_jax import coordination


@pytest.mark.parametrize("ask", [coordination.client, coordination.address])
def test_a_process_alone_has_no_service(ask):
    with pytest.raises(ValueError, match="this one has not joined the others; start each with --distributed auto"):
        ask()
