"""The train loop: one for every kind of training, resumable at every step."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from clip_jax import sharding
from clip_jax.checkpoint import Checkpoints, SaveFailed
from clip_jax.clock import Clock
from clip_jax.data.contents import contents
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
from clip_jax.limits import GoBack, check_step
from clip_jax.loading import load_encoder
from clip_jax.masking import settled
from clip_jax.models.clip import towers_of
from clip_jax.models.flops import PEAK_FLOPS, train_flops_per_pair
from clip_jax.profiling import Trace, marked
from clip_jax.rewinds import Rewind, batch_of, next_jump, one_more, read_rewinds, write_rewinds
from clip_jax.run_folder import CHECKPOINTS, PROFILE, Lock, Records, first_began, has_checkpoints, make_folder
from clip_jax.runs import check_same_data, check_same_run, check_same_teachers, write_config
from clip_jax.state import TrainState
from clip_jax.teaching import Filling, Teachers, open_teachers
from clip_jax.tokenizer_file import open_tokenizer
from clip_jax.writers import Progress

_log = logging.getLogger(__name__)
_SHOWN = ("_r1", "top1", "/overlap_at_20", "/swap_accuracy")  # the figures of an evaluation that are printed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """step: where training stands. complete: whether that is the end, and not a signal's doing. figures: the last
    evaluation, `name/figure` -> value. pairs_per_second: over the last steps. timing: the clock's figures at the end."""

    step: int
    complete: bool
    figures: dict[str, float]
    pairs_per_second: float
    timing: Mapping[str, float] = dataclasses.field(default_factory=dict)


def train(config: TrainConfig, workdir: Path, *, stop: Callable[[int], bool] = lambda step: False) -> Finished:
    """Trains until `config.steps`, or until `stop(step)` is true after a step; goes on from the workdir's newest
    checkpoint, where it has one; where config.recovery says so, also after a loss spike, and on with later batches.

    Raises ValueError or FileNotFoundError for a config that cannot work, before the first step; RuntimeError where too
    many steps in a row are left out, a run goes back too often, too many samples cannot be read, or the last checkpoint
    cannot be written.
    """
    began = time.time()
    source = open_source(config.source)
    teachers = open_teachers(config, source)
    plan = Plan(config, teachers.offers)
    open_tokenizer(config.model.text_cfg)
    teachers.verify(source)
    opened = open_evaluations(config.evals, load=load_encoder)
    evaluations = {name: one for name, one in opened.items() if not isinstance(one, Showcase)}  # those have no figures
    reads = bool(config.init_from or config.inherit.model) and not has_checkpoints(workdir)
    fresh = _first_state(plan, teachers) if reads else None  # before there is a folder, if it fails
    fill = teachers.on(plan)
    make_folder(workdir)
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0:
            stack.enter_context(contextlib.closing(Lock(workdir)))
        plan.check_space(workdir)
        check_same_run(workdir, config)
        parts = contents(source)
        check_same_data(workdir, config, parts)
        check_same_teachers(workdir, fill.identities)
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(workdir / CHECKPOINTS, config.checkpoint)))
        state = checkpoints.restore(plan.state) or fresh or _first_state(plan, teachers)
        write_config(workdir, config, fill.identities, parts)
        fresh = None  # its buffers are given up to the first step
        start = int(state.step)
        if start >= config.steps:
            _log.info("nothing left to train: %s stands at step %d of %d", workdir, start, config.steps)
            return Finished(step=start, complete=True, figures={}, pairs_per_second=0.0)
        if start:
            _log.info("going on from the checkpoint at step %d", start)
        rewinds, began = read_rewinds(workdir), first_began(workdir, start, began)
        given = (plan, source, teachers.taught, fill, evaluations, checkpoints)
        while True:
            start = int(state.step)
            records = Records(workdir, start, wandb=config.wandb)
            with contextlib.closing(records):
                try:
                    trace = Trace(config.profile, workdir / PROFILE)
                    return _Loop(*given, records, rewinds, trace, began).run(state, start, stop)
                except GoBack as back:
                    spike = back
            del state
            _settle(checkpoints)
            state = checkpoints.restore(plan.state) or _first_state(plan, teachers)
            rewinds = _gone_back(workdir, config, rewinds, spike, int(state.step))


def _settle(checkpoints: Checkpoints) -> None:
    try:
        checkpoints.wait()
    except SaveFailed as error:
        _log.warning("a checkpoint could not be written (%s)", error)


def _gone_back(workdir: Path, config: TrainConfig, before: list[Rewind], back: GoBack, to: int) -> list[Rewind]:
    """All rewinds, the new one among them, once it is written down; the same on all processes, since their metrics are."""
    if len(before) >= config.recovery.rewinds:
        raise RuntimeError(
            f"step {back.step} had {back.reason}, after {len(before)} rewinds, recovery.rewinds. Look at the data around step "
            f"{back.step}, lower optim.lr {config.optim.lr}, set optim.clip_norm, or allow more rewinds"
        )
    rewinds = one_more(before, back.step, to, back.reason)
    skipped = rewinds[-1].skipped
    _log.warning("step %d had %s; back to step %d, leaving out %d batches", back.step, back.reason, to, skipped)
    if jax.process_index() == 0:
        write_rewinds(workdir, rewinds)
    multihost_utils.sync_global_devices("a rewind is written down")
    return rewinds


def _first_state(plan: Plan, teachers: Teachers) -> TrainState:
    """At step 0: of other weights, cut out of a larger model, or fresh."""
    config = plan.config
    if config.init_from:
        return state_from(plan, config.init_from, teachers.embedded)
    if config.inherit.model:
        return inheriting_state(plan, config.inherit, teachers.embedded)
    return plan.initial_state()


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
        rewinds: Sequence[Rewind],
        trace: Trace,
        began: float,
    ):
        self._plan, self._config, self._source = plan, plan.config, source
        self._taught, self._fill = taught, fill
        self._evaluations, self._checkpoints, self._records = evaluations, checkpoints, records
        self._rewinds, self._trace = rewinds, trace
        devices = plan.mesh.devices
        flops = train_flops_per_pair(self._config.model) / devices.size
        peak = PEAK_FLOPS.get(devices.flat[0].device_kind)
        pairs = self._config.batch_size
        self._clock = Clock(pairs, flops, peak, began=began, useful=records.useful_seconds)

    def run(self, state: TrainState, start: int, stop: Callable[[int], bool]) -> Finished:
        config, mesh = self._config, self._plan.mesh
        figures: dict[str, float] = {}
        running: tuple[int, Any] | None = None  # the newest step and its metrics, fetched once the next is dispatched
        step, stopping = start, False
        stream, jump = self._stream(start), next_jump(self._rewinds, start)
        progress = Progress(config.steps, start, config.batch_size, silent=jax.process_index() > 0)
        try:
            while step < config.steps and not stopping:
                if step == jump:  # gone back to an older checkpoint than the rewind did
                    stream.close()
                    stream, jump = self._stream(step), next_jump(self._rewinds, step)
                with self._clock.waiting():
                    batch, bad = next(stream)
                self._records.bad(step + 1, bad)
                batch.pop("uid")
                batch = self._fill(sharding.to_global(batch, mesh), state)
                self._trace.before(step + 1, state)
                with marked(step + 1):
                    state, metrics = self._plan.step(state, batch)
                self._trace.after(step + 1, metrics)
                if running:
                    self._report(*running, progress)
                step += 1
                running = (step, metrics)
                stopping = stop(step)
                last = step == config.steps
                evaluates = last or (bool(config.eval_every) and step % config.eval_every == 0)
                if evaluates or stopping or step % config.checkpoint.every == 0:
                    self._report(*running, progress, saves=True)
                    running = None
                    evaluated: dict[str, float] = {}
                    try:
                        if evaluates:
                            with self._clock.paused():
                                figures = evaluated = self._evaluate(state, step, progress)
                    finally:  # an evaluation that fails must not cost the steps before it
                        with self._clock.stalled():
                            self._save(state, evaluated, progress)
            with self._clock.stalled():
                self._finish_saving(step)
        finally:
            self._trace.close()
            stream.close()
            progress.close()
        rate, timing = self._clock.pairs_per_second, self._timing()
        return Finished(step=step, complete=step == config.steps, figures=figures, pairs_per_second=rate, timing=timing)

    def _stream(self, step: int) -> TrainStream:
        config = self._config
        return TrainStream(
            self._source,
            eval_target(config.model),
            config.read,
            seed=config.seed,
            batch_size=config.batch_size,
            start_step=batch_of(self._rewinds, step),
            process=jax.process_index(),
            processes=jax.process_count(),
            taught=self._taught,
        )

    def _report(self, step: int, metrics: Any, progress: Progress, *, saves: bool = False) -> None:
        figures = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._clock.tick()
        progress.update(step, figures["loss"], self._clock.pairs_per_second, self._clock.wait_share)
        logs = step % self._config.log_every == 0 or step == self._config.steps
        if logs:
            self._records.metrics(step, figures)
        if logs or saves:
            self._records.timing(step, self._timing())
        if line := check_step(self._config, step, figures, self._records.worst_shards):
            progress.say(line)

    def _timing(self) -> dict[str, float]:
        peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
        known = [peak for peak in peaks if peak is not None]
        memory = {"device_memory_gb": max(known) / 1e9} if known else {}
        return self._clock.figures() | memory

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
