"""The train loop: golden losses, exact resume, what it survives, and what it refuses."""

import dataclasses
import errno
import json
import logging
import os
import random
import shutil
import subprocess
from collections import namedtuple
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import clip_jax
from clip_jax import run_folder, tree
from clip_jax import train as train_module
from clip_jax.checkpoint import CheckpointConfig, Checkpoints
from clip_jax.cli.configs import to_dataclass
from clip_jax.data.pipeline import ReadConfig
from clip_jax.data.source import BadSample
from clip_jax.evals.embed import Encoder
from clip_jax.evals.suite import flat_figures, open_evaluations, run_evaluations
from clip_jax.experiment import Plan, TrainConfig
from clip_jax.interop.convert import convert
from clip_jax.interop.recognize import open_weights
from clip_jax.loading import load_encoder
from clip_jax.runs import load_run
from clip_jax.sharding import MeshConfig
from clip_jax.teachers import Offer
from clip_jax.train import train
from tests import small_config
from tests.conftest import plans_made_once

GOLDEN = Path(__file__).parent / "golden" / "losses.json"


@pytest.fixture(scope="module", autouse=True)
def compiled_once() -> Iterator[None]:
    with plans_made_once():
        yield


@pytest.fixture(scope="session")
def config() -> TrainConfig:
    """The small run on the eight virtual devices."""
    return to_dataclass(small_config.get_config())


@pytest.fixture(scope="session")
def finished(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small run, done without interruption. Tests must not change it: they copy."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    done = train(config, folder)
    assert done.complete
    assert done.step == config.steps
    return folder


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / run_folder.METRICS).read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in rows(folder) if "loss" in row]


def test_golden_losses(finished: Path) -> None:
    """To renew after an intended change: `python -m tests.golden.renew`, and say in the commit what moved them."""
    np.testing.assert_allclose(losses(finished), json.loads(GOLDEN.read_text())["losses"], rtol=1e-3)


def test_every_step_and_every_evaluation_is_written(finished: Path, config: TrainConfig) -> None:
    written = rows(finished)
    assert [row["step"] for row in written if "loss" in row] == list(range(1, config.steps + 1))
    assert [row["step"] for row in written if "val/text_to_image_r1" in row] == [6, 12]
    timing = [json.loads(line) for line in (finished / run_folder.TIMING).read_text().splitlines()]
    assert timing[-1]["pairs_per_second"] > 0
    assert 0 <= timing[-1]["loader_wait"] <= 1
    assert list((finished / "tensorboard").iterdir())


@pytest.mark.parametrize("stops", [(5,), pytest.param((1, 2, 11), marks=pytest.mark.slow)])
def test_a_stopped_run_goes_on_bit_for_bit(
    finished: Path, config: TrainConfig, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    for stop in stops:
        done = train(config, tmp_path, stop=lambda step, stop=stop: step == stop)
        assert (done.step, done.complete) == (stop, False)
    assert train(config, tmp_path).complete
    assert (tmp_path / run_folder.METRICS).read_bytes() == (finished / run_folder.METRICS).read_bytes()
    _assert_equal_states(config, tmp_path, finished)


def _assert_equal_states(config: TrainConfig, one: Path, other: Path) -> None:
    abstract = Plan(config).state
    states = []
    for folder in (one, other):
        checkpoints = Checkpoints(folder / run_folder.CHECKPOINTS, config.checkpoint)
        states.append(checkpoints.restore(abstract))
        checkpoints.close()
    for left, right in zip(jax.tree.leaves(states[0]), jax.tree.leaves(states[1]), strict=True):
        np.testing.assert_array_equal(left, right)


def test_resume_on_another_mesh_gives_the_same_losses(finished: Path, config: TrainConfig, tmp_path: Path) -> None:
    train(config, tmp_path, stop=lambda step: step == 5)
    sharded = dataclasses.replace(config, mesh=MeshConfig(data=2, fsdp=4, fsdp_min_size=0))
    train(sharded, tmp_path)
    np.testing.assert_allclose(losses(tmp_path), losses(finished), rtol=1e-4)


def test_worker_processes_and_threads_give_the_same_run(finished: Path, config: TrainConfig, tmp_path: Path) -> None:
    workers = dataclasses.replace(config, steps=12, read=ReadConfig(workers=2))
    train(workers, tmp_path, stop=lambda step: step == 3)
    assert losses(tmp_path) == losses(finished)[:3]


def test_a_finished_run_has_nothing_left_to_do(finished: Path, config: TrainConfig, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "copy")
    assert train(config, folder).step == config.steps
    assert rows(folder) == rows(finished)


def test_the_evaluation_of_a_checkpoint_is_that_of_training(finished: Path, config: TrainConfig) -> None:
    run = load_run(finished)
    assert run.weights == "ema"
    opened = open_evaluations(config.evals, load=load_encoder)
    outcomes = run_evaluations(opened, Encoder(config.model, run.params, run.mesh))
    last = rows(finished)[-1]
    assert flat_figures(outcomes) == {key: value for key, value in last.items() if key != "step"}


def test_raw_and_average_weights_differ(finished: Path) -> None:
    raw, ema = load_run(finished, weights="raw"), load_run(finished, weights="ema")
    assert not np.array_equal(raw.params["visual"]["proj"]["kernel"], ema.params["visual"]["proj"]["kernel"])


def test_one_compile(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[Plan] = []

    class Seen(Plan):
        def __init__(self, config: TrainConfig, offers: Mapping[str, Offer]):
            super().__init__(config, offers)
            plans.append(self)

    monkeypatch.setattr(train_module, "Plan", Seen)
    train(config, tmp_path, stop=lambda step: step == 3)
    train(config, tmp_path, stop=lambda step: step == 5)
    assert [plan.step._cache_size() for plan in plans] == [1, 1]


def _newest(folder: Path) -> Path:
    return max((folder / run_folder.CHECKPOINTS).glob("[0-9]*"), key=lambda step: int(step.name))


def _largest_file(folder: Path) -> Path:
    return max((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)


@pytest.mark.parametrize("damage", ["truncated", "flipped byte", "flipped byte in params", "missing file", "no proof"])
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_used(
    finished: Path, config: TrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    folder = shutil.copytree(finished, tmp_path / "copy")
    newest = _newest(folder)
    file = _largest_file(newest / "params" if "params" in damage else newest / "rest")
    data = bytearray(file.read_bytes())
    match damage:
        case "truncated":
            file.write_bytes(data[: len(data) // 2])
        case "flipped byte" | "flipped byte in params":
            data[len(data) // 2] ^= 1
            file.write_bytes(data)
        case "missing file":
            file.unlink()
        case "no proof":
            shutil.rmtree(newest / "proof")
    with caplog.at_level(logging.WARNING):
        assert train(config, folder).complete
    assert "step 12 is damaged" in caplog.text
    assert (folder / run_folder.METRICS).read_bytes() == (finished / run_folder.METRICS).read_bytes()


def test_when_all_checkpoints_are_damaged_nothing_is_overwritten(
    finished: Path, config: TrainConfig, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished, tmp_path / "copy")
    for step in (folder / run_folder.CHECKPOINTS).glob("[0-9]*"):
        _largest_file(step / "rest").unlink()
    with pytest.raises(ValueError, match="none of the checkpoints"):
        train(config, folder)
    assert rows(folder) == rows(finished)


def test_the_best_checkpoint_stays(config: TrainConfig, tmp_path: Path) -> None:
    keep = CheckpointConfig(every=3, keep=1, best="val/text_to_image_r1")
    run = dataclasses.replace(config, checkpoint=keep, eval_every=3)
    train(run, tmp_path)
    figures = {row["step"]: row["val/text_to_image_r1"] for row in rows(tmp_path) if "val/text_to_image_r1" in row}
    best = max(figures.values())
    loaded = load_run(tmp_path).step
    assert figures[loaded] == best
    kept = {int(step.name) for step in (tmp_path / run_folder.CHECKPOINTS).glob("[0-9]*")}
    assert kept == {loaded, 12}


def test_non_finite_steps_are_skipped_and_a_run_of_them_ends_it(config: TrainConfig, tmp_path: Path) -> None:
    hot = dataclasses.replace(config, optim=dataclasses.replace(config.optim, lr=1e30), max_skipped=3)
    with pytest.raises(
        RuntimeError, match=r"3 steps in a row up to step \d+ had a loss or gradient that is not finite"
    ):
        train(hot, tmp_path)


def test_no_room_for_checkpoints_is_said_before_the_first_step(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1000))
    with pytest.raises(ValueError, match=r"0\.0 GB free; 4 checkpoints of .* need"):
        train(config, tmp_path)
    assert not (tmp_path / run_folder.METRICS).exists()


def _full_for(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Saves of these steps fail as on a full disk: in the background, in TensorStore's words."""
    real = ocp.CheckpointManager.wait_until_finished
    save = ocp.CheckpointManager.save
    failed: list[int] = []

    def wait(self: ocp.CheckpointManager) -> None:
        real(self)
        if failed:
            step = failed.pop()
            raise ValueError(f"RESOURCE_EXHAUSTED: writing step {step}: No space left on device [os_error_code='28']")

    def full(self: ocp.CheckpointManager, step: int, **kwargs: object) -> bool:
        if step in steps:
            failed.append(step)
            return True
        return save(self, step, **kwargs)

    monkeypatch.setattr(ocp.CheckpointManager, "wait_until_finished", wait)
    monkeypatch.setattr(ocp.CheckpointManager, "save", full)


def test_a_full_disk_at_checkpoint_time_does_not_end_the_run(
    finished: Path,
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    _full_for(monkeypatch, {4, 6})
    assert train(config, tmp_path).complete
    said = capfd.readouterr().err
    assert said.count("a checkpoint could not be written (No space left on device)") == 2
    assert (tmp_path / run_folder.METRICS).read_bytes() == (finished / run_folder.METRICS).read_bytes()
    assert {int(step.name) for step in (tmp_path / run_folder.CHECKPOINTS).glob("[0-9]*")} == {8, 12}


def test_a_full_disk_for_the_last_checkpoint_is_an_error_that_says_where_the_run_stands(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _full_for(monkeypatch, {12})
    with pytest.raises(RuntimeError, match=r"at step 12, could not be written: No space left .* from step 8"):
        train(config, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="mounts a file system of 20 MB")
def test_a_really_full_disk(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room(10**12, 0, 10**12))
    small = dataclasses.replace(config, checkpoint=CheckpointConfig(every=4, keep=1))
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(tmp_path)]).returncode:
        pytest.skip("this machine does not let us mount")
    try:
        with pytest.raises(RuntimeError, match="No space left on device"):
            train(small, tmp_path / "run")
        assert train_module.Checkpoints(tmp_path / "run" / run_folder.CHECKPOINTS, small.checkpoint).steps() == [4]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_last_checkpoint_that_cannot_even_begin_is_an_error(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = ocp.CheckpointManager.save

    def refuse(self: ocp.CheckpointManager, step: int, **kwargs: object) -> bool:
        if step == config.steps:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(self, step, **kwargs)

    monkeypatch.setattr(ocp.CheckpointManager, "save", refuse)
    with pytest.raises(RuntimeError, match="at step 12, could not be written"):
        train(config, tmp_path)


def test_a_disk_with_room_to_begin_has_room_to_go_on(
    finished: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, room = Plan(config), namedtuple("usage", "total used free")
    one = tree.bytes_of(plan.state)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room(9 * one, 8 * one, 1.5 * one))
    plan.check_space(finished)  # three of its four checkpoints are there already
    with pytest.raises(ValueError, match="4 checkpoints"):
        plan.check_space(finished.parent)


def test_without_a_figure_of_its_own_a_checkpoint_does_not_stay(config: TrainConfig, tmp_path: Path) -> None:
    keep = CheckpointConfig(every=2, keep=1, best="val/text_to_image_r1")
    train(dataclasses.replace(config, checkpoint=keep), tmp_path)
    assert {int(step.name) for step in (tmp_path / run_folder.CHECKPOINTS).glob("[0-9]*")} <= {6, 12}


def test_metrics_survive_a_kill_while_they_are_cut(
    finished: Path, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(finished, tmp_path / "copy")
    shutil.rmtree(_newest(folder))
    before = (folder / run_folder.METRICS).read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(config, folder)
    assert (folder / run_folder.METRICS).read_bytes() == before


@pytest.mark.parametrize("change", [{"ema_decay": 0.0}, pytest.param({"name": "lion"}, marks=pytest.mark.slow)])
def test_a_resume_that_cannot_fit_says_so_and_changes_nothing(
    finished: Path, config: TrainConfig, tmp_path: Path, change: dict
) -> None:
    began = dataclasses.replace(config, optim=dataclasses.replace(config.optim, **change), steps=4, evals={})
    train(began, tmp_path)
    written = (tmp_path / run_folder.CONFIG).read_bytes()
    with pytest.raises(ValueError, match=r"step 4 is of another model, optimizer or average: it lacks \d+ arrays"):
        train(config, tmp_path)
    assert (tmp_path / run_folder.CONFIG).read_bytes() == written
    assert not (tmp_path / "damaged").exists()


@pytest.mark.slow
def test_how_the_model_runs_may_change_on_resume(config: TrainConfig, tmp_path: Path) -> None:
    train(config, tmp_path, stop=lambda step: step == 2)
    running = dataclasses.replace(config.model.running, remat="block")
    again = dataclasses.replace(config, model=dataclasses.replace(config.model, running=running))
    assert train(again, tmp_path, stop=lambda step: step == 3).step == 3


def test_an_evaluation_that_fails_does_not_cost_the_steps_before_it(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no evaluation today")

    monkeypatch.setattr(train_module, "run_evaluations", fail)
    with pytest.raises(RuntimeError, match="no evaluation today"):
        train(config, tmp_path)
    assert _newest(tmp_path).name == "6"


def test_workdirs_that_cannot_be(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for workdir, message in ((tmp_path / "file", "cannot be written"), (Path("gs://bucket/run"), "is a URL")):
        with pytest.raises(ValueError, match=message):
            train(config, workdir)


def test_two_runs_in_one_folder(config: TrainConfig, tmp_path: Path) -> None:
    lock = run_folder.Lock(tmp_path)
    with pytest.raises(ValueError, match="another run is writing"):
        train(config, tmp_path)
    lock.close()


def test_another_model_in_the_same_folder(finished: Path, config: TrainConfig, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "copy")
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, embed_dim=16))
    with pytest.raises(ValueError, match="holds a run of another model"):
        train(other, folder)


def test_init_from_another_run_at_another_image_size(finished: Path, config: TrainConfig, tmp_path: Path) -> None:
    vision = dataclasses.replace(config.model.vision_cfg, image_size=24)
    model = dataclasses.replace(config.model, vision_cfg=vision)
    larger = dataclasses.replace(config, model=model, init_from=str(finished))
    train(larger, tmp_path, stop=lambda step: step == 1)
    assert losses(tmp_path)[0] < losses(finished)[0]

    wider = dataclasses.replace(larger, model=dataclasses.replace(model, embed_dim=16))
    with pytest.raises(ValueError, match=r"holds another model:\n.*proj/kernel: \(32, 32\), not \(32, 16\)"):
        train(wider, tmp_path / "wider")


def test_a_run_is_loaded_and_handed_on(finished: Path, tmp_path: Path) -> None:
    averaged, raw = open_weights(finished), open_weights(finished, weights="raw")
    assert (averaged.weights, raw.weights) == ("ema", "raw")
    tables = [model.params["text"]["token_embedding"] for model in (averaged, raw)]
    assert not np.array_equal(*tables)
    done = convert(raw, tmp_path / "there", "huggingface")
    np.testing.assert_array_equal(done.result.params["text"]["token_embedding"], tables[1])
    card = (tmp_path / "there" / "README.md").read_text()
    assert "step 12, raw weights" in card
    assert "| steps | 12 |" in card
    model = clip_jax.load(finished, weights="raw")
    np.testing.assert_array_equal(
        model.encode_text(["a red house"]), clip_jax.load(tmp_path / "there").encode_text(["a red house"])
    )


class _Flaky:
    """A source of which some samples cannot be read."""

    classes = ()

    def __init__(self, inner: object, bad: set[int]):
        self._inner, self._bad, self.name = inner, bad, "flaky"

    def __len__(self) -> int:
        return 200

    def __getitem__(self, index: int) -> object:
        if index in self._bad:
            raise BadSample("torn")
        return self._inner[index]

    def shard(self, index: int) -> str:
        return f"part-{index // 100}.tar"

    def uid(self, index: int) -> int:
        return index


def _with_source(monkeypatch: pytest.MonkeyPatch, bad: set[int]) -> None:
    opened = train_module.open_source
    monkeypatch.setattr(train_module, "open_source", lambda config: _Flaky(opened(config), bad))


def test_bad_samples_are_replaced_counted_and_named(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_source(monkeypatch, {7, 150})
    train(config, tmp_path, stop=lambda step: step == 7)
    train(config, tmp_path)
    logged = [json.loads(line) for line in (tmp_path / "bad_samples.jsonl").read_text().splitlines()]
    assert {(row["uid"], row["shard"], row["reason"]) for row in logged} <= {
        (f"{7:016x}", "part-0.tar", "torn"),
        (f"{150:016x}", "part-1.tar", "torn"),
    }
    assert 1 <= len(logged) == rows(tmp_path)[-2]["replaced"]


def test_too_many_bad_samples_end_the_run_and_name_the_shards(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_source(monkeypatch, set(random.Random(0).sample(range(100, 200), 60)))
    with pytest.raises(RuntimeError, match=r"more than read.max_bad_share 1.0%; worst: part-1.tar \(\d+\)"):
        train(config, tmp_path)


def test_bad_configs_are_errors_before_anything_is_written(config: TrainConfig, tmp_path: Path) -> None:
    cases = {
        "batch 12 does not split over 8 devices; use a multiple of 8": {"batch_size": 12},
        "config.steps is 0": {"steps": 0},
        "no such loss": {"objective": dataclasses.replace(config.objective, weights={"infonce": 1.0})},
        "sum to zero": {"objective": dataclasses.replace(config.objective, weights={"info_nce": 0.0})},
        "names no figure of an evaluation; there are": {"checkpoint": CheckpointConfig(best="val/texttoimage_r1")},
        "vocab_size 64 is smaller than the tokenizer's 49408": {
            "model": dataclasses.replace(
                config.model, text_cfg=dataclasses.replace(config.model.text_cfg, vocab_size=64)
            )
        },
        "exceed the 12 steps": {"optim": dataclasses.replace(config.optim, warmup_steps=100)},
        "matches no parameter": {"optim": dataclasses.replace(config.optim, freeze=("visul/.*",))},
    }
    for message, change in cases.items():
        with pytest.raises(ValueError, match=message):
            train(dataclasses.replace(config, **change), tmp_path / "run")
        assert not (tmp_path / "run").exists()
