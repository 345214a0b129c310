"""One measurement of tests.bench.teacher_cost, in a process of its own; the last line printed is its result as JSON."""

import dataclasses
import gc
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from clip_jax import tree
from clip_jax.data.taught import Target, Taught
from clip_jax.data.teacher_store import TeacherStore
from clip_jax.models.flops import macs_per_pair
from clip_jax.models.presets import preset
from tests.bench import teacher_cost_modes as modes

_SECONDS = 150.0  # of timed steps, about; but _FEWEST rounds at least
_FEWEST, _MOST = 4, 30
_PAIRS = 4  # of steps without a teacher and with a stored one, in a round
_WARM = 2  # steps of each before
_READ_ROWS, _READ_BATCH, _READS = 65_536, 1024, 20


def prepare(folder: Path) -> dict[str, Any]:
    """Writes teacher and store; says what is measured, and on what."""
    chosen = modes.setting()
    modes.write_teacher(folder / "teacher")
    modes.write_store(folder / "store", modes.pictures(chosen.samples))
    student, teacher = (macs_per_pair(preset(name)) for name in (modes.STUDENT, modes.TEACHER))
    device = jax.devices()[0]
    return dataclasses.asdict(chosen) | {
        "device": f"{os.cpu_count()} cores" if device.platform == "cpu" else device.device_kind,
        "devices": jax.device_count(),
        "jax": jax.__version__,
        "student_gmacs": 3 * student / 1e9,
        "teacher_gmacs": teacher / 1e9,
    }


def times(folder: Path) -> dict[str, Any]:
    """Steps of all three, in turn, so that whatever else the machine does weighs on each."""
    trainings = {mode: modes.Training(mode, folder) for mode in modes.MODES}
    for training in trainings.values():
        for _ in range(_WARM):
            training.step()
    taken: dict[str, list[modes.Step]] = {mode: [] for mode in modes.MODES}
    began, rounds = time.perf_counter(), 0
    load = os.getloadavg()[0]
    while rounds < _FEWEST or (rounds < _MOST and time.perf_counter() - began < _SECONDS):
        for pair in range(_PAIRS):
            for mode in ("plain", "stored") if pair % 2 else ("stored", "plain"):
                taken[mode].append(trainings[mode].step())
        taken["live"].append(trainings["live"].step())
        rounds += 1
    for training in trainings.values():
        training.close()
    every = {mode: [dataclasses.asdict(step) for step in steps] for mode, steps in taken.items()}
    return {"steps": every, "load": [load, os.getloadavg()[0]], "pairs_a_round": _PAIRS}


def memory(folder: Path, mode: str) -> dict[str, Any]:
    """Bytes of a process that trains in one mode.

    process: the most it held at once while it stepped; life: ever, with reading and compiling. arrays: on devices between
    two steps. step, teacher: arguments, results and temporaries of the compiled programs. device: peak, where devices count.
    """
    training = modes.Training(mode, folder)
    for _ in range(_WARM):
        training.step()
    gc.collect()
    before = _life()  # the kernel forgets this one, too
    from_here = _forget_peak()
    for _ in range(_WARM):
        training.step()
    life = max(before, _life())
    found = {
        "process": _peak() if from_here else life,
        "life": life,
        "arrays": sum(array.nbytes for array in jax.live_arrays()),
        "state": tree.bytes_of(training.plan.state),
        "targets": sum(tree.bytes_of(leaf) for leaf in training.plan.batch().get("targets", {}).values()),
        "step": _program(training.compiled),
        "device": (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
    }
    if mode == "live":
        found["teacher"] = _program(training.teacher_program())
    training.close()
    return found


def _program(compiled: jax.stages.Compiled) -> dict[str, int]:
    """arguments: of the step, of which the state is given up to the results."""
    sizes = compiled.memory_analysis()
    assert sizes is not None
    return {
        "arguments": sizes.argument_size_in_bytes,
        "results": sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        "temporaries": sizes.temp_size_in_bytes,
    }


def _life() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _forget_peak() -> bool:
    """Whether the kernel counts this process's peak from now on; Linux does."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def reads(folder: Path) -> dict[str, Any]:
    """Microseconds in which a batch's rows are found and read, image and text, from a store in memory and on the disk.

    lookup: the readers' own, one sample at a time, whether the store has it.
    """
    path, target = folder / "reads", Target(image_size=preset(modes.STUDENT).vision_cfg.image_size)
    source, rng = modes.pictures(_READ_ROWS), np.random.default_rng(1)
    modes.write_store(path, source)

    def batch() -> list[dict[str, Any]]:
        chosen = rng.choice(_READ_ROWS, _READ_BATCH, replace=False).tolist()
        return [{"uid": source.uid(index), "view": 0, "caption": modes.caption(index)} for index in chosen]

    def taught() -> Taught:
        return Taught(stores={"teacher": TeacherStore(path, verify=False)})

    def from_disk() -> float:
        fresh, samples = taught(), batch()
        _drop(path)
        return _microseconds(lambda: fresh.collate(target, samples))

    def from_memory() -> float:
        samples = batch()
        return _microseconds(lambda: mapped.collate(target, samples))

    cold = [from_disk() for _ in range(_READS // 2)] if hasattr(os, "posix_fadvise") else []
    mapped = Taught(stores={"teacher": TeacherStore(path)})  # which reads all of it
    from_memory()
    warm = [from_memory() for _ in range(_READS)]
    uids = [sample["uid"] for sample in batch()]
    lookup = _microseconds(lambda: [_row(mapped.stores["teacher"], uid) for uid in uids])
    return {
        "rows": _READ_ROWS,
        "batch": _READ_BATCH,
        "embed_dim": preset(modes.TEACHER).embed_dim,
        "warm": statistics.median(warm),
        "cold": statistics.median(cold) if cold else None,
        "lookup": lookup,
    }


def _row(store: TeacherStore, uid: int) -> int:
    return int(store.rows(np.array([uid], np.uint64))[0])


def _drop(path: Path) -> None:
    """Out of the machine's memory with what it holds of these files."""
    for file in path.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _microseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1e6 * (time.perf_counter() - began)


if __name__ == "__main__":
    what, where, *rest = sys.argv[1:]
    print(json.dumps({"prepare": prepare, "times": times, "memory": memory, "reads": reads}[what](Path(where), *rest)))
