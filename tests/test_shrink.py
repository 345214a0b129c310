"""clip-jax shrink: from a run under masks to a folder that opens."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clip_jax import tree
from clip_jax.checkpoint import Checkpoints
from clip_jax.cli import shrink as command
from clip_jax.experiment import TrainConfig
from clip_jax.interop.recognize import open_weights
from clip_jax.masked_run import open_masked_run
from clip_jax.masking import MaskConfig
from clip_jax.models.clip import CLIPConfig, count_parameters
from clip_jax.models.masks import BOUNDS, init_masks
from clip_jax.models.sparsity import init_multipliers
from clip_jax.models.vit import VisionConfig
from clip_jax.optim import OptimConfig
from clip_jax.run_folder import CHECKPOINTS
from clip_jax.runs import load_run, write_config
from clip_jax.shrink import TowerSize, shrunk
from clip_jax.state import TrainState
from tests.models.test_siglip import with_towers
from tests.test_inherit import random_params

Tree = dict[str, Any]


@pytest.fixture(scope="module")
def model(small: CLIPConfig) -> CLIPConfig:
    return with_towers(small, vision={"head_width": 8}, text={"vocab_size": 49408})


@pytest.fixture(scope="module")
def params(model: CLIPConfig) -> Tree:
    """With masks of the image tower, of which a half is closed; and a head of distillation."""
    masks = jax.tree.map(np.array, init_masks(model, image=True, text=False))
    for part in masks["visual"].values():
        part[..., : part.shape[-1] // 2] = BOUNDS[0]
    own = {"masks": masks, "multipliers": init_multipliers(masks)}
    return random_params(model, 1) | own | {"distill": {"teacher": {"kernel": jnp.ones((2, 3), jnp.float32)}}}


@pytest.fixture(scope="module")
def run(model: CLIPConfig, params: Tree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("runs") / "run", model, params)


def saved(folder: Path, model: CLIPConfig, params: Tree) -> Path:
    """A run's folder at step 3, whose average is 0 but for the masks."""
    config = TrainConfig(model=model, optim=OptimConfig(ema_decay=0.9), masks=MaskConfig(image="masks" in params))
    (folder / CHECKPOINTS).mkdir(parents=True)
    write_config(folder, config)
    count = jnp.zeros((), jnp.int32)
    ema = jax.tree.map(np.zeros_like, params) | {name: leaf for name, leaf in params.items() if name == "masks"}
    placed: Any = jax.device_put({"params": params, "ema": ema})
    state = TrainState(step=count + 3, opt_state=(), skipped=count, skipped_in_row=count, replaced=count, **placed)
    checkpoints = Checkpoints(folder / CHECKPOINTS, config.checkpoint)
    checkpoints.save(state, {})
    checkpoints.close()
    return folder


def test_a_run_becomes_its_student(run: Path, model: CLIPConfig, params: Tree, tmp_path: Path, capsys: Any):
    destination = tmp_path / "student"
    assert command.main(["shrink", str(run), str(destination), "--weights", "raw", "--image_hidden", "60"]) == 0
    opened = open_weights(destination)
    said = capsys.readouterr().out
    assert f"{count_parameters(opened.config):,} of {count_parameters(model):,} parameters" in said
    share = tree.count(opened.params["visual"]) / tree.count(params["visual"])
    assert f"kept: {share:.0%} of the image tower; the masks were to keep 25% of each" in said
    assert "far more" not in said  # the sizes were asked for
    vision = opened.config.vision_cfg
    assert isinstance(vision, VisionConfig)
    assert (vision.width, vision.head_width, int(vision.width * vision.mlp_ratio)) == (16, 8, 60)
    assert opened.config.text_cfg == dataclasses.replace(model.text_cfg, tokenizer=opened.config.text_cfg.tokenizer)
    wanted = shrunk(params, params["masks"], model, {"visual": TowerSize(width=16, hidden=60)})[1]
    assert not tree.misfits(opened.params, {name: wanted[name] for name in opened.params})
    for path, leaf in tree.leaves_by_path(opened.params).items():
        np.testing.assert_array_equal(leaf, tree.leaves_by_path(wanted)[path])
    assert "cut out of run, step 3, raw weights" in (destination / "README.md").read_text()


def test_masks_that_have_not_closed_are_told_of(model: CLIPConfig, params: Tree, tmp_path: Path, capsys: Any):
    run = saved(tmp_path / "run", model, params | {"masks": init_masks(model, image=True, text=False)})
    assert command.main(["shrink", str(run), str(tmp_path / "student"), "--weights", "raw"]) == 0
    said = capsys.readouterr().out
    assert "kept: 100% of the image tower; the masks were to keep 25% of each" in said
    assert "That is far more: the masks had not closed yet" in said


def test_a_masked_run_opened_as_another_is_told_of(run: Path, caplog: pytest.LogCaptureFixture):
    assert "masks" not in load_run(run, weights="raw").params
    assert "was trained under masks, and here is without; clip-jax shrink" in caplog.text


def test_what_cannot_be_shrunk(run: Path, model: CLIPConfig, params: Tree, tmp_path: Path):
    with pytest.raises(ValueError, match="--text_width 16: this run masks image only"):
        open_masked_run(run, {("text", "width"): 16})
    with pytest.raises(ValueError, match="image width 20 is not a multiple of the head size 8; give 16, say"):
        open_masked_run(run, {("image", "width"): 20})
    assert not np.any(open_masked_run(run, {})[1].params["text"]["token_embedding"])  # the average
    plain = saved(tmp_path / "plain", model, {"visual": params["visual"], "text": params["text"]})
    with pytest.raises(ValueError, match="plain was trained without masks"):
        open_masked_run(plain, {})
    with pytest.raises(ValueError, match="give RUN and DST"):
        command.main(["shrink", str(run)])
