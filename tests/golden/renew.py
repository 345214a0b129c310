"""Writes golden/losses.json anew: `python -m tests.golden.renew`, with the oldest JAX supported (see requirements.txt)."""

import json
import tempfile
from pathlib import Path

from clip_jax.cli.configs import to_dataclass
from clip_jax.run_folder import METRICS
from clip_jax.train import train
from tests import small_config
from tests.conftest import jax  # with the tests' eight virtual devices

with tempfile.TemporaryDirectory() as folder:
    train(to_dataclass(small_config.get_config()), Path(folder))
    rows = [json.loads(line) for line in (Path(folder) / METRICS).read_text().splitlines()]
golden = {"jax": jax.__version__, "losses": [row["loss"] for row in rows if "loss" in row]}
(Path(__file__).parent / "losses.json").write_text(json.dumps(golden, indent=1) + "\n")
