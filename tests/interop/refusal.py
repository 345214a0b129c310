"""What reading a file of weights that is none says."""

from pathlib import Path

import pytest

from clip_jax.interop.files import tensors


def refusal(path: Path) -> str:
    """The one line that reading it gives."""
    with pytest.raises(ValueError, match=r".") as error:
        tensors.read(path)
    text = str(error.value)
    assert str(path) in text
    assert "\n" not in text
    assert len(text) < 400
    return text
