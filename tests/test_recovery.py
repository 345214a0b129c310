"""Spikes and batches that give NaN: left out, or gone back behind, alike however often the run is interrupted."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clip_jax import recovery, rewinds, run_folder
from clip_jax import step as step_module
from clip_jax import train as train_module
from clip_jax.checkpoint import CheckpointConfig
from clip_jax.cli.configs import to_dataclass
from clip_jax.data.pipeline import TrainStream
from clip_jax.experiment import TrainConfig
from clip_jax.recovery import JUDGED, RecoveryConfig, spikes
from clip_jax.rewinds import Rewind, batch_of, next_jump, read_rewinds
from clip_jax.train import train
from tests import small_config
from tests.conftest import plans_made_once

SPIKE = 200.0  # what the loss of a bad batch is multiplied by, and its gradient with it


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """20 steps, a checkpoint each 4; spikes are seen from the fifth step on."""
    monkeypatch.setattr(recovery, "WINDOW", 8)
    small = to_dataclass(small_config.get_config())
    return dataclasses.replace(small, steps=20, evals={}, eval_every=0, checkpoint=CheckpointConfig(every=4, keep=9))


class Batches:
    """Which batches of the stream were read, in order; those of `bad` hold one caption, and give `factor` times the loss, or
    only the gradient where `loss_too` is False."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.read: list[int] = []
        self.bad: set[int] = set()
        self.factor, self.loss_too = SPIKE, True
        objective = step_module.objective

        class Marked(TrainStream):
            def __init__(stream, *args: Any, start_step: int, **more: Any):
                super().__init__(*args, start_step=start_step, **more)
                stream.next = start_step

            def __next__(stream) -> Any:
                batch, replaced = super().__next__()
                if stream.next in self.bad:
                    batch["text"] = np.zeros_like(batch["text"])
                self.read.append(stream.next)
                stream.next += 1
                return batch, replaced

        def scaled(goal: Any, mesh: Any, student: Any, **given: Any) -> Any:
            total, raw = objective(goal, mesh, student, **given)
            whole = total * jnp.where((student.text == student.text[:1]).all(), self.factor, jnp.float32(1))
            return whole if self.loss_too else whole + jax.lax.stop_gradient(total - whole), raw

        patch.setattr(train_module, "TrainStream", Marked)
        patch.setattr(step_module, "objective", scaled)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[Batches]:
    with plans_made_once():
        yield Batches(monkeypatch)


def with_policy(config: TrainConfig, spike: Any, **more: Any) -> TrainConfig:
    return dataclasses.replace(config, recovery=RecoveryConfig(spike=spike, **more))


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / run_folder.METRICS).read_text().splitlines()]


def test_what_a_spike_is() -> None:
    config = RecoveryConfig(spike="skip", deviations=10)
    rng = np.random.default_rng(0)
    unit = np.array([[1.0], [30.0]])  # of the loss, of the gradient's norm
    seen = jnp.asarray(unit * (2 + 0.1 * rng.standard_normal((2, recovery.WINDOW))), jnp.float32)

    def spiked(recent: jax.Array, *values: float) -> list[str]:
        found = spikes(config, recent, jnp.asarray(unit[:, 0] * np.array(values), jnp.float32))
        return [name for name, spike in zip(JUDGED, found, strict=True) if spike]

    assert spiked(seen, 2.5, 2.5) == []
    assert spiked(seen, 3.5, 2.5) == ["loss"]
    assert spiked(seen, 2.5, 3.5) == ["grad_norm"]
    assert spiked(seen, 3.5, 3.5) == ["loss", "grad_norm"]
    assert spiked(seen, 0.1, 0.1) == [], "only what is too high"
    assert spiked(seen, float("nan"), float("nan")) == [], "what is not finite has a rule of its own"
    known = jnp.arange(recovery.WINDOW)[None] < jnp.array([[recovery.WINDOW // 2 - 1], [recovery.WINDOW // 2]])
    assert spiked(jnp.where(known, seen, jnp.nan), 100.0, 100.0) == ["grad_norm"], "too early to tell of the loss"
    even = jnp.asarray(unit * np.full((2, recovery.WINDOW), 2.0), jnp.float32)
    assert spiked(even, 2.1, 2.1) == [], "even values are no reason to be strict"
    assert spiked(even, 2.3, 2.3) == ["loss", "grad_norm"]
    # Half of them 1, half 3: the median is 2, all lie 1 from it, and 1 / 0.67449 is the standard deviation of a normal
    # distribution of which half lies within 1.
    wide = jnp.asarray(unit * np.resize([1.0, 3.0], (2, recovery.WINDOW)), jnp.float32)
    assert spiked(wide, 2 + 0.999 * 10 / 0.67449, 2 + 1.001 * 10 / 0.67449) == ["grad_norm"]


def test_where_the_stream_stands() -> None:
    found = [Rewind(step=11, to=8, skipped=3, reason="a"), Rewind(step=15, to=12, skipped=3, reason="b")]
    assert [batch_of(found, step) for step in (0, 7, 8, 11, 12, 20)] == [0, 7, 11, 14, 18, 26]
    assert [next_jump(found, step) for step in (0, 8, 12)] == [8, 12, None]


def test_back_behind_an_earlier_rewind() -> None:
    once = rewinds.one_more([], 11, 8, "a")
    assert once[0].skipped == 3
    again = rewinds.one_more(once, 11, 8, "b")
    assert [batch_of(again, step) for step in (7, 8)] == [7, 14]
    older = rewinds.one_more(once, 15, 4, "the checkpoint at 8 was damaged")
    spike = batch_of(once, 14)
    assert [batch_of(older, step) for step in range(4, 12)] == [*range(spike + 1, spike + 9)], "each batch once"
    assert [next_jump(older, step) for step in (0, 4, 8)] == [4, None, None]


def test_numbers_that_cannot_be(config: TrainConfig, tmp_path: Path) -> None:
    for wrong in ({"deviations": 0.0}, {"rewinds": 0}):
        with pytest.raises(ValueError, match="deviations must be above 0, rewinds at least 1"):
            train(with_policy(config, "skip", **wrong), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("loss_too", [True, False])
def test_a_spike_is_left_out_and_counted(loss_too: bool, config: TrainConfig, batches: Batches, tmp_path: Path) -> None:
    batches.bad, batches.loss_too = {10}, loss_too
    run = with_policy(config, "skip")
    assert train(run, tmp_path / "whole").complete
    found = rows(tmp_path / "whole")
    assert [row["step"] for row in found if row["loss_spike"]] == ([11] if loss_too else [])
    assert [row["step"] for row in found if row["grad_norm_spike"]] == [11]
    assert [row["skipped"] for row in found] == [0.0] * 10 + [1.0] * 10
    assert max(row["loss"] for row in found[11:]) < 1.5 * found[9]["loss"], "its update was not applied"
    for stop in (10, 11):
        train(run, tmp_path / "parts", stop=lambda step, stop=stop: step == stop)
    train(run, tmp_path / "parts")
    assert rows(tmp_path / "parts") == found, "a resumed run remembers what it judges by"


@pytest.mark.slow
def test_an_outlying_gradient_is_left_out_and_nothing_gone_back_behind(
    config: TrainConfig, batches: Batches, tmp_path: Path
) -> None:
    batches.bad, batches.loss_too = {10}, False
    run = with_policy(dataclasses.replace(config, steps=12), "rewind")
    assert train(run, tmp_path).complete
    found = rows(tmp_path)
    assert found[10]["grad_norm"] > 10 * found[9]["grad_norm"]
    assert found[10]["loss"] < 1.5 * found[9]["loss"]
    assert [(row["grad_norm_spike"], row["skipped"]) for row in found[9:]] == [(0, 0), (1, 1), (0, 1)]
    assert read_rewinds(tmp_path) == [], "it was judged before it did harm"


def test_too_many_spikes_in_a_row_end_the_run(config: TrainConfig, batches: Batches, tmp_path: Path) -> None:
    batches.bad = {10, 11, 12}
    run = dataclasses.replace(with_policy(config, "skip"), max_skipped=3)
    with pytest.raises(RuntimeError, match=r"3 steps in a row up to step 13 had .* or spikes; lower"):
        train(run, tmp_path)
    assert [row["skipped_in_row"] for row in rows(tmp_path)][9:] == [0, 1, 2, 3]


@pytest.mark.slow
def test_ignored_spikes_are_applied(config: TrainConfig, batches: Batches, tmp_path: Path) -> None:
    batches.bad = {10}
    train(config, tmp_path)
    assert rows(tmp_path)[-1]["skipped"] == 0
    assert "loss_spike" not in rows(tmp_path)[-1]


def test_a_run_goes_back_behind_a_spike(config: TrainConfig, batches: Batches, tmp_path: Path) -> None:
    batches.bad = {10}
    run = with_policy(config, "rewind")
    assert train(run, tmp_path / "whole").complete
    assert read_rewinds(tmp_path / "whole") == [
        Rewind(step=11, to=8, skipped=3, reason=read_rewinds(tmp_path / "whole")[0].reason)
    ]
    back = batches.read.index(11, batches.read.index(10) + 1)  # read ahead once, then from step 8 on
    assert batches.read[-12:] == list(range(11, 23)), batches.read[back:]
    found = rows(tmp_path / "whole")
    assert [row["step"] for row in found] == list(range(1, 21))
    assert all(row["skipped"] == 0 for row in found)

    train(run, tmp_path / "parts", stop=lambda step: step == 14)
    older = shutil.copytree(tmp_path / "parts", tmp_path / "older")
    assert train(run, tmp_path / "parts").complete
    assert rows(tmp_path / "parts") == found
    for newer in (8, 12, 14):
        shutil.rmtree(older / run_folder.CHECKPOINTS / str(newer))
    batches.read.clear()
    assert train(run, older).complete
    assert [*batches.read[:4], *batches.read[-12:]] == [4, 5, 6, 7, *range(11, 23)]
    assert rows(older) == found, "a run set back to before the rewind reads the same batches again"


@pytest.mark.slow
def test_too_many_rewinds_end_the_run(config: TrainConfig, batches: Batches, tmp_path: Path) -> None:
    batches.bad = {10, 13, 16}
    with pytest.raises(RuntimeError, match=r"step 11 had a loss of .*, after 2 rewinds, recovery\.rewinds"):
        train(with_policy(config, "rewind", rewinds=2), tmp_path)
    assert [rewind.to for rewind in read_rewinds(tmp_path)] == [8, 8]
    with pytest.raises(RuntimeError, match=r"after 2 rewinds, recovery\.rewinds"):
        train(with_policy(config, "rewind", rewinds=1), tmp_path)
    assert train(with_policy(config, "rewind", rewinds=3), tmp_path).complete
    assert len(read_rewinds(tmp_path)) == 3


@pytest.mark.slow
def test_a_batch_of_nan_is_left_out_and_many_are_gone_back_behind(
    config: TrainConfig, batches: Batches, tmp_path: Path
) -> None:
    batches.factor, batches.bad = float("nan"), {2, 9, 10}
    run = dataclasses.replace(with_policy(config, "rewind"), max_skipped=2)
    assert train(run, tmp_path).complete
    assert [(r.step, r.to, r.skipped) for r in read_rewinds(tmp_path)] == [(11, 8, 3)]
    assert "not finite or spikes in 2 steps in a row" in read_rewinds(tmp_path)[0].reason
    found = rows(tmp_path)
    assert found[2]["loss"] is None
    assert found[-1]["skipped"] == 1
    assert all(np.isfinite(row["loss"]) for row in found[3:])


@pytest.mark.slow
def test_an_old_run_can_begin_to_look_for_spikes(config: TrainConfig, tmp_path: Path) -> None:
    train(config, tmp_path, stop=lambda step: step == 5)
    assert train(with_policy(config, "skip"), tmp_path, stop=lambda step: step == 7).step == 7
    assert rows(tmp_path)[-1]["loss_spike"] == rows(tmp_path)[-1]["grad_norm_spike"] == 0
    assert train(config, tmp_path).complete


def test_a_damaged_file_of_rewinds_is_no_run_without_them(tmp_path: Path) -> None:
    assert read_rewinds(tmp_path) == []
    (tmp_path / rewinds.REWINDS).write_text("[{")
    with pytest.raises(ValueError, match="is damaged"):
        read_rewinds(tmp_path)
