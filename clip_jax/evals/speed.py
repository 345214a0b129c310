"""How fast a model encodes on the devices at hand."""

import dataclasses
import os
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from clip_jax.evals.embed import gather_rows
from clip_jax.models.clip import CLIPConfig
from clip_jax.models.towers import tower
from clip_jax.sharding import to_global

_SECONDS = 10.0  # about so long, but at least _FEWEST rounds
_FEWEST, _MOST = 3, 15


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """images, texts: encoded a second, of all devices together, medians over `rounds`; reading, resizing and compiling left
    out. images_spread, texts_spread: their interquartile ranges over the medians, so how far to trust them. batch_size:
    of all devices. device: which and how many. dtype: of activations and products."""

    images: float
    texts: float
    images_spread: float
    texts_spread: float
    rounds: int
    batch_size: int
    device: str
    dtype: str


def measure_speed(config: CLIPConfig, params: Any, mesh: Mesh, *, batch_size: int = 256) -> Speed:
    """Times both towers in turn, so that whatever else the machine does weighs on both.

    batch_size: rounded up to a multiple of the devices; 256 is Encoder's, whose compiled towers are used again.
    """
    devices = mesh.devices.size
    whole = -(-batch_size // devices) * devices
    local, rng = whole // jax.process_count(), np.random.default_rng(0)
    side, text = config.vision_cfg.image_size, config.text_cfg
    images = rng.integers(0, 256, (local, side, side, 3)).astype(np.uint8)
    tokens = rng.integers(1, text.vocab_size, (local, text.context_length)).astype(np.int32)
    batches = {"image": to_global(images, mesh), "text": to_global(tokens, mesh)}
    towers = {name: tower(config, mesh, name) for name in ("image", "text")}

    def one_round() -> dict[str, float]:
        taken = {}
        for name, encode in towers.items():
            began = time.perf_counter()
            jax.block_until_ready(encode(params, batches[name]))
            taken[name] = time.perf_counter() - began
        return taken

    one_round()  # compiles
    found = [one_round()]
    slowest = gather_rows(np.array([sum(found[0].values())])).max()  # all processes must run as many rounds
    rounds = int(min(max(_SECONDS / slowest, _FEWEST), _MOST))
    found += [one_round() for _ in range(rounds - 1)]
    rates = {name: [whole / taken[name] for taken in found] for name in towers}
    low, middle, high = np.quantile([rates["image"], rates["text"]], [0.25, 0.5, 0.75], axis=1).tolist()
    return Speed(
        images=middle[0],
        texts=middle[1],
        images_spread=(high[0] - low[0]) / middle[0],
        texts_spread=(high[1] - low[1]) / middle[1],
        rounds=rounds,
        batch_size=whole,
        device=_device(mesh),
        dtype=config.dtype,
    )


def _device(mesh: Mesh) -> str:
    device, count = mesh.devices.flat[0], mesh.devices.size
    name = f"CPU ({os.cpu_count()} cores)" if device.platform == "cpu" else device.device_kind
    return f"{count} x {name}" if count > 1 else name
