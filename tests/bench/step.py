"""How fast is a training step on this machine's devices?"""

import dataclasses

import jax
import numpy as np

from clip_jax.experiment import Plan, TrainConfig
from clip_jax.models.flops import train_flops_per_pair
from clip_jax.models.layers import Running
from clip_jax.models.presets import preset
from tests.bench.row import Row, rate


def rows() -> list[Row]:
    """The tiny model at batch 256 and ViT-B-32 at batch 16, f32 and bf16, layers unrolled."""
    return [
        _step(name, batch, dtype)
        for name, batch in (("tiny", 256), ("ViT-B-32", 16))
        for dtype in ("float32", "bfloat16")
    ]


def _step(name: str, batch: int, dtype: str) -> Row:
    model = dataclasses.replace(preset(name), dtype=dtype, running=Running(scan=False))
    plan = Plan(TrainConfig(model=model, batch_size=batch))
    rng = np.random.default_rng(0)
    given = {
        "image": rng.integers(0, 256, plan.batch()["image"].shape).astype(np.uint8),
        "text": rng.integers(1, 49000, plan.batch()["text"].shape).astype(np.int32),
        "replaced": np.zeros((batch,), np.int32),
    }
    device = jax.device_put(given)
    state = [plan.initial_state()]

    def step() -> None:
        state[0], metrics = plan.step(state[0], device)
        jax.block_until_ready(metrics)

    gflops = train_flops_per_pair(model) * batch / 1e9
    row = rate(f"step, {name}, batch {batch}, {dtype}", "pairs/s", batch, step, repetitions=3)
    return dataclasses.replace(row, question=f"{row.question} ({gflops:,.0f} GFLOP)")
