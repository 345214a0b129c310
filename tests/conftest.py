"""Eight virtual CPU devices, strict promotion, and the small model that most tests share."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from typing import Any

# One compile cache a test run, shared by all workers and subprocesses: most time would go into compiling the same again.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="clip_jax_compiled_"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PLATFORMS"] = "cpu"
# XLA's pool has a thread a device, and a collective that waits for other devices keeps one: where a device waits in two of
# them, another finds no thread to come with, and all wait for ever.
os.environ.setdefault("PJRT_NPROC", "64")
# On a busy machine one of eight devices may have to wait for a core: XLA's own 40 seconds end the process.
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=240"
)

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from clip_jax import train as train_module
from clip_jax.experiment import Plan, TrainConfig
from clip_jax.models.clip import CLIPConfig, init_params
from clip_jax.models.text import TextConfig
from clip_jax.models.vit import VisionConfig
from clip_jax.optim import OptimConfig
from clip_jax.sharding import MeshConfig, make_mesh
from clip_jax.state import TrainState

jax.config.update("jax_numpy_rank_promotion", "raise")

# Halves the time to compile a program whose own speed does not matter.
QUICK_COMPILE = {"xla_backend_optimization_level": 0}

SMALL = CLIPConfig(
    embed_dim=16,
    vision_cfg=VisionConfig(layers=2, width=32, head_width=16, patch_size=8, image_size=16),
    text_cfg=TextConfig(context_length=8, vocab_size=64, width=32, heads=2, layers=2),
)


@pytest.fixture(scope="session")
def small() -> CLIPConfig:
    """Two layers of width 32 a tower, 16 pixels, 8 tokens of 64."""
    return SMALL


@pytest.fixture(scope="session")
def small_params(small: CLIPConfig):
    """Its parameters at key 0; not to be given up to a jitted function."""
    return jax.jit(lambda key: init_params(small, key))(jax.random.key(0))


@pytest.fixture(scope="session")
def mesh1() -> Mesh:
    """One device."""
    return make_mesh(MeshConfig(), jax.devices()[:1])


@pytest.fixture(scope="session")
def mesh8() -> Mesh:
    """Eight devices along `data`."""
    return make_mesh(MeshConfig(), jax.devices()[:8])


@pytest.fixture(scope="session")
def mesh42() -> Mesh:
    """Four along `data` by two along `fsdp`."""
    return make_mesh(MeshConfig(data=4, fsdp=2), jax.devices()[:8])


@pytest.fixture(scope="session")
def small_batch(small: CLIPConfig) -> dict[str, np.ndarray]:
    """Sixteen random pairs; every text ends in its highest id, 63."""
    return random_batch(small, 16, seed=0)


@pytest.fixture(scope="session")
def small_plan(small: CLIPConfig) -> Plan:
    """The small model's training on eight devices along `data`, in batches of 16."""
    return plan_for(small, MeshConfig(), 8)


@pytest.fixture(scope="session")
def small_step(small_plan: Plan) -> Any:
    """Its compiled step."""
    return compiled_step(small_plan)


@pytest.fixture(scope="session")
def small_start(small_plan: Plan) -> TrainState:
    """Its state before the first step, as host arrays: the step gives up its input's buffers."""
    return jax.device_get(small_plan.initial_state())


def plan_for(model: CLIPConfig, mesh: MeshConfig, devices: int) -> Plan:
    """A training of `model` on the first `devices` devices; a plan by itself takes all."""
    config = TrainConfig(
        model=model,
        steps=20,
        batch_size=16,
        mesh=dataclasses.replace(mesh, fsdp_min_size=512),
        optim=OptimConfig(lr=1e-2, schedule="constant", warmup_steps=4, ema_decay=0.9),
    )
    first = jax.devices()[:devices]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: first)
        return Plan(config)


@contextlib.contextmanager
def plans_made_once() -> Iterator[None]:
    """In it, `train` traces and compiles each configuration once, however often it is started; for as long as nothing that
    a step is made of is patched."""
    made: dict[str, Plan] = {}

    def plan(config: TrainConfig, *offers: Any) -> Plan:
        key = repr((config, offers))
        if key not in made:
            made[key] = Plan(config, *offers)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "Plan", plan)
        yield


def compiled_step(plan: Plan) -> Any:
    """The plan's step, ahead of time."""
    return plan.step.lower(plan.state, plan.batch()).compile(QUICK_COMPILE)


def random_batch(config: CLIPConfig, size: int, seed: int) -> dict[str, np.ndarray]:
    """What the training step takes, as host arrays."""
    rng = np.random.default_rng(seed)
    side, length, vocab = config.vision_cfg.image_size, config.text_cfg.context_length, config.text_cfg.vocab_size
    text = rng.integers(1, vocab - 1, (size, length)).astype(np.int32)
    end = rng.integers(1, length, size)
    text[np.arange(length)[None] > end[:, None]] = 0
    text[np.arange(size), end] = vocab - 1
    image = rng.integers(0, 256, (size, side, side, 3)).astype(np.uint8)
    return {"image": image, "text": text, "replaced": np.zeros(size, np.int32)}
