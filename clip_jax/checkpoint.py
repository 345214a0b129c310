"""Checkpoints by Orbax: written in the background, complete or absent, proven on reading."""

import contextlib
import dataclasses
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as managers

from clip_jax.agreement import failure_of_any
from clip_jax.proof import Damaged, check_fingerprints, fingerprints_of, names_of, proof_of, proven
from clip_jax.state import TrainState

_log = logging.getLogger(__name__)
_ARRAYS = ("params", "ema", "rest", "recent")
_ITEMS = (*_ARRAYS, "proof")
# What several devices hold they write in parts, each its own, where parts are at least so many bytes: cutting a part out
# takes a program for each shape and device, which small arrays are not worth.
_LEAST_PART = 1 << 16
_TO_BEGIN = 300.0  # seconds: a process that cannot even begin a save may have left the others in the midst of it


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """every: steps between two checkpoints. keep: how many of the newest stay.

    best: an evaluation's metric, as metrics.jsonl names it (`val/text_to_image_r1`); the checkpoint where it was highest
    stays too. "" keeps only the newest.
    """

    every: int = 1000
    keep: int = 3
    best: str = ""


class SaveFailed(Exception):
    """A checkpoint could not be written; the ones before it are as they were."""


class Checkpoints:
    """The checkpoints in one folder. read_only: beside a run that may be writing."""

    def __init__(self, folder: Path, config: CheckpointConfig, *, read_only: bool = False):
        self._config, self._folder, self._read_only = config, folder, read_only
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        def metric(metrics: Mapping[str, float]) -> float:
            return metrics[self._config.best]

        policies: list[Any] = [managers.LatestN(self._config.keep)]
        if self._config.best:
            policies.append(managers.BestN(get_metric_fn=metric, n=1, keep_checkpoints_without_metrics=False))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=managers.AnyPreservationPolicy(policies),
            best_fn=metric if self._config.best else None,
            read_only=self._read_only,
            cleanup_tmp_directories=not self._read_only,  # what a killed run had half written
        )
        arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=_LEAST_PART)
        registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
        handlers: dict[str, Any] = {
            name: ocp.PyTreeCheckpointHandler(type_handler_registry=registry) for name in _ARRAYS
        }
        handlers["proof"] = ocp.JsonCheckpointHandler()
        return ocp.CheckpointManager(self._folder.absolute(), item_handlers=handlers, options=options)

    def steps(self) -> list[int]:
        """Steps that have a complete checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    def best(self) -> int | None:
        """The step whose `best` metric is highest; the newest where none is named or measured."""
        return (self._manager.best_step() if self._config.best else None) or self._manager.latest_step()

    def save(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        """Starts to write `state`; returns when it has left the devices. Call `wait` before: one save at a time.

        Raises SaveFailed where it cannot even begin; what goes wrong in the background, `wait` raises.
        """
        rest = _rest(state)
        recent = {"values": state.recent}
        items: dict[str, Any] = {"params": ocp.args.PyTreeSave(state.params), "rest": ocp.args.PyTreeSave(rest)}
        if state.ema is not None:
            items["ema"] = ocp.args.PyTreeSave(state.ema)
        if state.recent is not None:
            items["recent"] = ocp.args.PyTreeSave(recent)
        parts = {"params": state.params, "ema": state.ema, "recent": recent, "rest": rest}
        proof = proof_of(parts)
        figure = {self._config.best: metrics[self._config.best]} if self._config.best in metrics else None
        args = ocp.args.Composite(proof=ocp.args.JsonSave(proof), **items)
        self._settled(
            lambda: self._manager.save(int(state.step), args=args, metrics=figure, force=True), patience=_TO_BEGIN
        )

    def restore(self, abstract: TrainState) -> TrainState | None:
        """The newest checkpoint that is whole, or None where there is none; `abstract` gives shapes and placement.

        A damaged one is reported and the one before it read; it is moved to `damaged/` beside the folder, out of the way of
        the checkpoint that will be written at its step. Damaged for one process is damaged for all. Raises ValueError where
        all are damaged, or where the checkpoint is that of another model or optimizer.
        """
        steps = _as_process_0_sees(self.steps())[::-1]
        items: dict[str, Any] = {"params": abstract.params, "rest": _rest(abstract)}
        if abstract.ema is not None:
            items["ema"] = abstract.ema
        if abstract.recent is not None:
            items["recent"] = {"values": abstract.recent}
        for candidate in steps:
            try:
                found = self._read(candidate, items)
            except Damaged as damage:
                _log.warning("checkpoint at step %d is damaged and was passed over: %s", candidate, damage)
                continue
            self._set_aside([damaged for damaged in steps if damaged > candidate])
            recent = found["recent"]["values"] if "recent" in found else _none_yet(abstract.recent)
            return TrainState(params=found["params"], ema=found.get("ema"), recent=recent, **found["rest"])
        if steps:
            raise ValueError(
                f"none of the checkpoints at steps {steps} can be read (reasons above); use another workdir to start anew"
            )
        return None

    def restore_params(self, abstract: Any, step: int, *, ema: bool) -> Any:
        """Only the parameters at `step`, or their average; folders of what else was trained there are left out.

        Raises ValueError where they are damaged, or another model's.
        """
        item = "ema" if ema else "params"
        try:
            return self._read(step, {item: abstract}, partial=True)[item]
        except Damaged as damage:
            raise ValueError(f"checkpoint at step {step} is damaged: {damage}") from damage

    def wait(self) -> None:
        """Returns when all is on disk. Raises SaveFailed, on all processes, where it is not; the next save starts afresh."""
        self._settled(self._manager.wait_until_finished)

    def close(self) -> None:
        """Waits, then lets go of the folder."""
        self._manager.close()

    def _settled(self, work: Callable[[], object], **how: float) -> None:
        reason, cause = "", None
        try:
            work()
        except Exception as error:  # Orbax passes on what its threads, TensorStore or the file system said
            full = "No space left on device"
            reason = full if full in str(error) else f"{type(error).__name__}: {str(error)[:500]}"
            cause = error
        if reason := failure_of_any(reason, **how):
            self._manager = self._open()
            raise SaveFailed(reason) from cause

    def _set_aside(self, steps: list[int]) -> None:
        if steps and jax.process_index() == 0:
            aside = self._folder.parent / "damaged"
            aside.mkdir(exist_ok=True)
            for step in steps:
                number = len(list(aside.glob(f"{step}*")))
                (self._folder / str(step)).rename(aside / (f"{step}.{number}" if number else str(step)))
        if steps:
            multihost_utils.sync_global_devices("damaged checkpoints are out of the way")
            self._manager.reload()

    def _read(self, step: int, items: dict[str, Any], *, partial: bool = False) -> dict[str, Any]:
        fingerprints = _whole_for_all(lambda: proven(self._load(step, {"proof": ocp.args.JsonRestore()})["proof"]))
        if "['recent']['values']" not in fingerprints:  # written when nobody looked for spikes
            items = {name: item for name, item in items.items() if name != "recent"}
        _check_leaves(step, items, [name for name in fingerprints if not partial or _is_own(name, items)])
        args = {
            name: _partly(abstract) if partial else ocp.args.StandardRestore(abstract)
            for name, abstract in items.items()
        }
        read = _whole_for_all(lambda: self._load(step, args))
        found = fingerprints_of(read)  # by all together: outside of what one alone may leave
        _whole_for_all(lambda: check_fingerprints(found, fingerprints))
        return read

    def _load(self, step: int, args: dict[str, Any]) -> dict[str, Any]:
        """Reads as if this process were alone, where the manager would wait for the others, who may have failed."""
        own = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})
        reader = ocp.Checkpointer(ocp.CompositeCheckpointHandler(*_ITEMS), multiprocessing_options=alone)
        with contextlib.closing(reader):
            found = reader.restore((self._folder / str(step)).absolute(), args=ocp.args.Composite(**args))
        return {name: found[name] for name in args}


def _whole_for_all(work: Callable[[], Any]) -> Any:
    """What `work`, which waits for no other process, returns. Raises Damaged on all of them where it fails on one."""
    result, reason, cause = None, "", None
    try:
        result = work()
    except Damaged as damage:
        reason = str(damage)
    except Exception as error:  # Orbax, TensorStore, JSON and the file system each have their own
        reason, cause = f"{type(error).__name__}: {str(error)[:300]}", error
    if reason := failure_of_any(reason):
        raise Damaged(reason) from cause
    return result


def _as_process_0_sees(steps: list[int]) -> list[int]:
    number = int(multihost_utils.broadcast_one_to_all(np.int32(len(steps))))
    own = np.array(steps if jax.process_index() == 0 else [0] * number, np.int32)
    return np.asarray(multihost_utils.broadcast_one_to_all(own)).tolist()


def _partly(abstract: Any) -> ocp.args.PyTreeRestore:
    """Reads the leaves of `abstract` and no others."""
    given = ocp.checkpoint_utils.construct_restore_args(abstract)
    return ocp.args.PyTreeRestore(abstract, restore_args=given, partial_restore=True)


def _is_own(name: str, items: dict[str, Any]) -> bool:
    """Whether a leaf lies in a folder that is wanted, or in none: `['params']['logit_scale']`."""
    item, folder, *inner = re.findall(r"\['(.*?)'\]", name)
    return not inner or folder in items.get(item, {})


def _check_leaves(step: int, items: dict[str, Any], names: Iterable[str]) -> None:
    """Raises ValueError where the checkpoint, as it was written, holds other leaves (`names`) than are wanted of it."""
    wanted = set(names_of(items))
    stored = {name for name in names if name.startswith(tuple(f"['{item}']" for item in items))}
    if wanted != stored:
        lacks, extra = sorted(wanted - stored), sorted(stored - wanted)
        raise ValueError(
            f"checkpoint at step {step} is of another model, optimizer or average: it lacks {len(lacks)} arrays {lacks[:2]} "
            f"and has {len(extra)} others {extra[:2]}. Train on with the settings it was made with, or start from its "
            "weights in another workdir with config.init_from"
        )


def _rest(state: TrainState) -> dict[str, Any]:
    kept = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value for name, value in kept.items() if name not in ("params", "ema", "recent")}


def _none_yet(recent: Any) -> jax.Array | None:
    if recent is None:
        return None
    return jax.jit(lambda: jnp.full(recent.shape, jnp.nan, recent.dtype), out_shardings=recent.sharding)()
