"""The train loop: one for every kind of training, resumable at every step."""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from clip_jax import sharding
from clip_jax.checkpoint import Checkpoints, SaveFailed
from clip_jax.clock import Clock
from clip_jax.data.pipeline import TrainStream
from clip_jax.data.source import Source
from clip_jax.data.sources import open_source
from clip_jax.data.taught import Taught
from clip_jax.evals.embed import Encoder, eval_target
from clip_jax.evals.protocol import Evaluation
from clip_jax.evals.showcase import Showcase
from clip_jax.evals.suite import flat_figures, open_evaluations, run_evaluations
from clip_jax.experiment import Plan, TrainConfig
from clip_jax.init_from import inheriting_state, state_from
from clip_jax.loading import load_encoder
from clip_jax.masking import settled
from clip_jax.models.clip import towers_of
from clip_jax.models.flops import PEAK_FLOPS, train_flops_per_pair
from clip_jax.run_folder import CHECKPOINTS, Lock, Records, make_folder
from clip_jax.runs import check_same_run, check_same_teachers, write_config
from clip_jax.state import TrainState
from clip_jax.teaching import Filling, open_teachers
from clip_jax.tokenizer_file import open_tokenizer
from clip_jax.writers import Progress

_log = logging.getLogger(__name__)
_SHOWN = ("_r1", "top1", "/overlap_at_20", "/swap_accuracy")  # the figures of an evaluation that are printed
_FEW_BAD = 10  # so many replaced samples never stop a run, however small their share allowed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """step: where training stands. complete: whether that is the end, and not a signal's doing. figures: the last
    evaluation, `name/figure` -> value. pairs_per_second: over the last steps."""

    step: int
    complete: bool
    figures: dict[str, float]
    pairs_per_second: float


def train(config: TrainConfig, workdir: Path, *, stop: Callable[[int], bool] = lambda step: False) -> Finished:
    """Trains until `config.steps`, or until `stop(step)` is true after a step; goes on from the workdir's newest
    checkpoint, where it has one.

    Raises ValueError or FileNotFoundError for a config that cannot work, before the first step; RuntimeError where too
    many steps in a row are not finite, too many samples cannot be read, or the last checkpoint cannot be written.
    """
    source = open_source(config.source)
    teachers = open_teachers(config, source)
    plan = Plan(config, teachers.offers)
    open_tokenizer(config.model.text_cfg)
    teachers.verify(source)
    opened = open_evaluations(config.evals, load=load_encoder)
    evaluations = {name: one for name, one in opened.items() if not isinstance(one, Showcase)}  # those have no figures
    began = any((workdir / CHECKPOINTS).glob("[0-9]*"))
    reads = bool(config.init_from or config.inherit.model) and not began
    fresh = _first_state(plan) if reads else None  # before there is a folder, if it fails
    fill = teachers.on(plan)
    make_folder(workdir)
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0:
            stack.enter_context(contextlib.closing(Lock(workdir)))
        plan.check_space(workdir)
        check_same_run(workdir, config)
        check_same_teachers(workdir, fill.identities)
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(workdir / CHECKPOINTS, config.checkpoint)))
        state = checkpoints.restore(plan.state) or fresh or _first_state(plan)
        write_config(workdir, config, fill.identities)
        start = int(state.step)
        if start >= config.steps:
            _log.info("nothing left to train: %s stands at step %d of %d", workdir, start, config.steps)
            return Finished(step=start, complete=True, figures={}, pairs_per_second=0.0)
        if start:
            _log.info("going on from the checkpoint at step %d", start)
        records = stack.enter_context(contextlib.closing(Records(workdir, start, wandb=config.wandb)))
        return _Loop(plan, source, teachers.taught, fill, evaluations, checkpoints, records).run(state, start, stop)


def _first_state(plan: Plan) -> TrainState:
    """At step 0: of other weights, cut out of a larger model, or fresh."""
    config = plan.config
    if config.init_from:
        return state_from(plan, config.init_from)
    return inheriting_state(plan, config.inherit) if config.inherit.model else plan.initial_state()


class _Loop:
    def __init__(
        self,
        plan: Plan,
        source: Source,
        taught: Taught,
        fill: Filling,
        evaluations: Mapping[str, Evaluation],
        checkpoints: Checkpoints,
        records: Records,
    ):
        self._plan, self._config, self._source = plan, plan.config, source
        self._taught, self._fill = taught, fill
        self._evaluations, self._checkpoints, self._records = evaluations, checkpoints, records
        devices = plan.mesh.devices
        flops = train_flops_per_pair(self._config.model) / devices.size
        self._clock = Clock(self._config.batch_size, flops, PEAK_FLOPS.get(devices.flat[0].device_kind))

    def run(self, state: TrainState, start: int, stop: Callable[[int], bool]) -> Finished:
        config, mesh = self._config, self._plan.mesh
        figures: dict[str, float] = {}
        running: tuple[int, Any] | None = None  # the newest step and its metrics, fetched once the next is dispatched
        step, stopping = start, False
        stream = self._stream(start)
        progress = Progress(config.steps, start, config.batch_size, silent=jax.process_index() > 0)
        try:
            while step < config.steps and not stopping:
                with self._clock.waiting():
                    batch, bad = next(stream)
                self._records.bad(step + 1, bad)
                batch.pop("uid")
                batch = self._fill(sharding.to_global(batch, mesh), state)
                state, metrics = self._plan.step(state, batch)
                if running:
                    self._report(*running, progress)
                step += 1
                running = (step, metrics)
                stopping = stop(step)
                last = step == config.steps
                evaluates = last or (bool(config.eval_every) and step % config.eval_every == 0)
                if evaluates or stopping or step % config.checkpoint.every == 0:
                    self._report(*running, progress)
                    running = None
                    with self._clock.paused():
                        evaluated: dict[str, float] = {}
                        try:
                            if evaluates:
                                figures = evaluated = self._evaluate(state, step, progress)
                        finally:  # an evaluation that fails must not cost the steps before it
                            self._save(state, evaluated, progress)
            self._finish_saving(step)
        finally:
            stream.close()
            progress.close()
        rate = self._clock.pairs_per_second
        return Finished(step=step, complete=step == config.steps, figures=figures, pairs_per_second=rate)

    def _stream(self, start: int) -> TrainStream:
        config = self._config
        return TrainStream(
            self._source,
            eval_target(config.model),
            config.read,
            seed=config.seed,
            batch_size=config.batch_size,
            start_step=start,
            process=jax.process_index(),
            processes=jax.process_count(),
            taught=self._taught,
        )

    def _report(self, step: int, metrics: Any, progress: Progress) -> None:
        figures = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._clock.tick()
        progress.update(step, figures["loss"], self._clock.pairs_per_second, self._clock.wait_share)
        if step % self._config.log_every == 0 or step == self._config.steps:
            self._records.metrics(step, figures)
            self._records.timing(step, self._clock.figures())
        if not math.isfinite(figures["loss"]) or figures["skipped_in_row"]:
            progress.say(f"step {step}: loss or gradient not finite; step skipped ({figures['skipped']:.0f} so far)")
        if figures["skipped_in_row"] >= self._config.max_skipped:
            raise RuntimeError(
                f"{figures['skipped_in_row']:.0f} steps in a row up to step {step} had a loss or gradient that is not "
                f"finite; lower optim.lr {self._config.optim.lr}, set optim.clip_norm, or look at the data"
            )
        drawn = step * self._config.batch_size
        if figures["replaced"] > max(_FEW_BAD, self._config.read.max_bad_share * drawn):
            raise RuntimeError(
                f"{figures['replaced']:.0f} of {drawn} samples could not be read, more than read.max_bad_share "
                f"{self._config.read.max_bad_share:.1%}; worst: {self._records.worst_shards()}. "
                "bad_samples.jsonl names each"
            )

    def _evaluate(self, state: TrainState, step: int, progress: Progress) -> dict[str, float]:
        weights = towers_of(settled(state.params if state.ema is None else state.ema))
        encoder = Encoder(self._config.model, weights, self._plan.mesh)
        figures = flat_figures(run_evaluations(self._evaluations, encoder))
        if figures:
            self._records.metrics(step, figures)
            shown = "  ".join(f"{name} {100 * value:.1f}%" for name, value in figures.items() if name.endswith(_SHOWN))
            progress.say(f"step {step:,}: {shown}")
        return figures

    def _save(self, state: TrainState, figures: dict[str, float], progress: Progress) -> None:
        # A full disk must not end days of training: the next save may find room.
        for work in (self._checkpoints.wait, lambda: self._checkpoints.save(state, figures)):
            try:
                work()
            except SaveFailed as error:
                progress.say(f"a checkpoint could not be written ({error}); training goes on without it")

    def _finish_saving(self, step: int) -> None:
        reason: SaveFailed | str = "see above"
        try:
            self._checkpoints.wait()
        except SaveFailed as error:
            reason = error
        if step not in self._checkpoints.steps():
            raise RuntimeError(
                f"the last checkpoint, at step {step}, could not be written: {reason}. Free some space and run the same "
                f"command again; it goes on from step {max(self._checkpoints.steps(), default=0)}"
            )
