"""A batch embedded in parts: the gradient of the whole, in memory that does not grow with the number of parts."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from clip_jax import tree
from clip_jax.experiment import Plan, TrainConfig
from clip_jax.models.clip import CLIPConfig
from clip_jax.models.resnet import ResNetConfig
from clip_jax.optim import OptimConfig
from clip_jax.sharding import MeshConfig
from tests.conftest import QUICK_COMPILE, compiled_step, random_batch
from tests.models.test_siglip import with_towers
from tests.test_objectives import batch_of, placed, plan_with_everything


def gradient(plan: Plan, batch: Any) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """By path, that of the first step, out of Adam's first moment; and the step's metrics."""
    state, metrics = compiled_step(plan)(plan.initial_state(), placed(plan, batch))
    moments = {
        path.partition("/mu/")[2]: np.asarray(leaf)
        for path, leaf in tree.leaves_by_path(state.opt_state).items()
        if "/mu/" in path
    }
    return moments, {name: float(value) for name, value in metrics.items()}


def assert_same(found: Any, expected: Any) -> None:
    """Gradients to 1e-5 of the largest element of each array, metrics to 1e-5."""
    (grads, metrics), (true, wanted) = found, expected
    assert grads.keys() == true.keys()
    for path, slope in true.items():
        np.testing.assert_allclose(grads[path], slope, rtol=1e-5, atol=1e-5 * np.abs(slope).max(), err_msg=path)
    assert metrics == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def plain(model: CLIPConfig, parts: int, mesh: MeshConfig, batch_size: int = 64) -> Plan:
    optim = OptimConfig(schedule="constant", warmup_steps=1, clip_norm=0.0)
    return Plan(TrainConfig(model=model, batch_size=batch_size, accumulate=parts, mesh=mesh, optim=optim))


FSDP = MeshConfig(data=2, fsdp=4, fsdp_min_size=512)


@pytest.mark.parametrize("mesh", [MeshConfig(), pytest.param(FSDP, marks=pytest.mark.slow)], ids=["data", "fsdp"])
def test_parts_give_the_gradient_of_the_whole(small: CLIPConfig, mesh: MeshConfig) -> None:
    small = with_towers(small, vision={"patch_dropout": 0.5})  # at random, and the same for each number of parts
    batch = random_batch(small, 64, seed=0)
    whole = gradient(plain(small, 1, mesh), batch)
    assert np.abs(whole[0]["visual/proj/kernel"]).max() > 0
    assert_same(gradient(plain(small, 8 if mesh.fsdp == 1 else 2, mesh), batch), whole)


def test_parts_give_the_gradient_of_every_loss() -> None:
    meshes = {"mesh": MeshConfig(data=4, fsdp=2), "devices": 8}
    batch = batch_of(0)
    whole, parts = (gradient(plan_with_everything(**meshes, accumulate=parts), batch) for parts in (1, 2))
    assert_same(parts, whole)


def test_memory_is_that_of_a_part(small: CLIPConfig) -> None:
    def temporaries(batch_size: int, parts: int) -> int:
        plan = plain(small, parts, MeshConfig(), batch_size)
        compiled = plan.step.lower(plan.state, plan.batch()).compile(QUICK_COMPILE)
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(1024, 8) < 2 * temporaries(128, 1)


def test_parts_must_divide_and_batch_norms_must_stand_still(small: CLIPConfig) -> None:
    with pytest.raises(ValueError, match=r"accumulate is 3; a device has 8 pairs .* into \[1, 2, 4, 8\] parts"):
        plain(small, 3, MeshConfig())
    model = dataclasses.replace(small, vision_cfg=ResNetConfig(layers=(1, 1, 1, 1), width=8, image_size=32))
    with pytest.raises(ValueError, match="another gradient than the whole batch's"):
        plain(model, 2, MeshConfig())
    held = OptimConfig(freeze=("visual/.*/(mean|var)",))
    Plan(TrainConfig(model=model, batch_size=64, accumulate=2, optim=held))
