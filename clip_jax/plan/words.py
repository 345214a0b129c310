"""A plan as people read it, and as JSON."""

import dataclasses
from typing import Any

from rich.console import Console
from rich.table import Table

from clip_jax.plan.chips import Pod
from clip_jax.plan.collectives import by_kind_and_axes
from clip_jax.plan.fit import GPU_SHARE, Trial, memory_of
from clip_jax.teachers import LiveTeacher


def print_trial(trial: Trial, pod: Pod, console: Console) -> None:
    """Memory, FLOPs, collectives and times of one compiled config."""
    compiled, config = trial.compiled, trial.config
    size = config.batch_size
    mesh = ", ".join(f"{axis} {length:,}" for axis, length in compiled.mesh.items() if length > 1) or "one device"
    a_chip = f", {compiled.devices // pod.size} a chip" if compiled.devices != pod.size else ""
    console.print(
        f"{pod}: {compiled.devices:,} {_device(pod, compiled.kind)}{a_chip}  ·  mesh {mesh}  ·  batch {size:,}, "
        f"{size // (compiled.devices // compiled.mesh['model']):,} pairs a device  ·  compiled in {compiled.seconds:,.0f} s\n"
    )
    if not pod.is_tpu:
        console.print(
            "There is no ahead-of-time compiler for GPUs here: this is the same program compiled for as many virtual CPU "
            "devices. What goes into the step and its FLOPs are the same on GPUs. Temporaries are the CPU program's, which "
            "keeps some bf16 as f32; its collectives, too, may be f32, and all-reduces where a GPU's reduce and scatter: "
            "more than on GPUs. Bytes moved are those of the products' operands and results, as if all else were fused.\n"
        )
    if not_counted(trial):
        console.print("Of live teachers the weights are counted, not what they compute beside the step.\n")
    console.print(_memory(trial, pod))
    if trial.times is None:
        return
    console.print(_flops(trial))
    console.print(_collectives(trial))
    console.print(_times(trial, pod))


def print_verdict(trials: list[Trial], pod: Pod, console: Console) -> None:
    """*fits*, or what does."""
    first, last = trials[0], trials[-1]
    but = "".join(f"; {one} are not counted" for one in not_counted(first))
    if first.fits:
        console.print(f"fits {pod}{but}")
    elif last.fits:
        console.print(f"does not fit {pod}: try {' '.join(last.settings)}, which was compiled and fits{but}")
    elif len(trials) > 1:
        least = min(trials, key=lambda trial: trial.compiled.total)
        console.print(
            f"does not fit {pod}; of {len(trials) - 1} settings compiled none fits. The least, "
            f"{_gb(least.compiled.total)} a device, is with {' '.join(least.settings) or 'the config as it is'}; take more chips"
        )
    else:
        console.print(f"does not fit {pod}")


def not_counted(trial: Trial) -> list[str]:
    """What a run holds on its devices beyond the total."""
    live = any(isinstance(teacher, LiveTeacher) for teacher in trial.config.teachers.values())
    return ["live teachers' activations"] if live else []


def one_line(trial: Trial, pod: Pod) -> str:
    """A setting that was tried: what it needs, and whether that is there."""
    least = "at least " if trial.compiled.needed else ""
    verdict = "fits" if trial.fits else "does not fit"
    settings = " ".join(trial.settings) or "the config as it is"
    return f"{settings}: {least}{_gb(trial.compiled.total)} of {_gb(memory_of(pod, trial.compiled.devices))} a device, {verdict}"


def to_json(trials: list[Trial], pod: Pod) -> dict[str, Any]:
    """All figures, in bytes, FLOPs and seconds; the config asked about, and what else was compiled."""
    return {
        "topology": str(pod),
        "config": trials[0].config.origin,
        "compiler": "TPU, ahead of time" if pod.is_tpu else "CPU, for as many virtual devices",
        "memory": memory_of(pod, trials[0].compiled.devices),
        "fits": trials[0].fits,
        "not_counted": not_counted(trials[0]),
        "try": list(trials[-1].settings) if trials[-1].fits else [],
        "trials": [_trial_json(trial) for trial in trials],
    }


def _trial_json(trial: Trial) -> dict[str, Any]:
    compiled = dataclasses.asdict(trial.compiled)
    for one, written in zip(trial.compiled.collectives, compiled["collectives"], strict=True):
        written["sent"] = one.sent
    return {
        "settings": list(trial.settings),
        "batch_size": trial.config.batch_size,
        "fits": trial.fits,
        "total": trial.compiled.total,
        "temporaries": trial.compiled.split,
        "compiled": compiled,
        "times": dataclasses.asdict(trial.times) if trial.times else None,
    }


def _device(pod: Pod, kind: str) -> str:
    return kind if pod.is_tpu else pod.chip.kinds[0]


def _memory(trial: Trial, pod: Pod) -> Table:
    compiled, have = trial.compiled, memory_of(pod, trial.compiled.devices)
    view = _table("Memory a device", "what", "GB", "how known")
    for name in ("parameters", "optimizer", "average", "batch"):
        view.add_row(name, _gb(getattr(compiled, name), ""), "counted on shapes and placement")
    if not_counted(trial):
        view.add_row("live teachers' weights", _gb(compiled.teachers, ""), "counted on shapes and placement")
    if compiled.needed:
        view.add_row("temporaries", _gb(compiled.needed, ""), "refused by the compiler, which names this size")
    else:
        view.add_row("temporaries", _gb(compiled.temporaries, ""), "compiler, at the peak; of them, estimated:")
        hows = (
            "what is left: activations, gathered weights, buffers",
            "one, f32, placed as parameters are",
            "objective and its gradient, compiled alone",
        )
        for (name, size), how in zip(compiled.split.items(), hows, strict=True):
            view.add_row(f"  {name}, about", _gb(size, ""), how)
        view.add_row("program", _gb(compiled.code, ""), "compiler")
    view.add_row("total", _gb(compiled.total, ""), "at least" if compiled.needed else "")
    what = "HBM" if pod.is_tpu else f"{GPU_SHARE:.0%} of memory; set XLA_PYTHON_CLIENT_MEM_FRACTION={GPU_SHARE}"
    view.add_row("there is", _gb(have, ""), f"{what}, published")
    return view


def _flops(trial: Trial) -> Table:
    compiled, found = trial.compiled, trial.times
    assert found
    view = _table("\nFLOPs a step", "what", "TFLOP a device", "how known")
    n = compiled.devices
    view.add_row("model", f"{found.model_flops / n / 1e12:,.3f}", "forward and backward of the towers: what MFU counts")
    view.add_row("program", f"{compiled.products / n / 1e12:,.3f}", "all products, with loss and recomputation")
    view.add_row(
        "XLA's count", f"{compiled.xla_flops / 1e12:,.3f}", "cost_analysis, which counts the body of a loop once"
    )
    return view


def _collectives(trial: Trial) -> Table:
    view = _table("\nCollectives a step", "kind", "mesh axes", "MB sent a device", "operations")
    for kind, axes, sent, number in by_kind_and_axes(trial.compiled.collectives):
        view.add_row(kind, ", ".join(axes), f"{sent / 1e6:,.1f}", f"{number:,}")
    return view


def _times(trial: Trial, pod: Pod) -> Table:
    found = trial.times
    assert found
    estimate = pod.chip.clock and trial.compiled.cycles
    view = _table("\nTime of a step, predicted", "what", "ms", "how")
    view.add_row("products", _ms(found.products), "at the chip's published peak")
    moved = f"{trial.compiled.hbm / 1e9:,.1f} GB moved at its published bandwidth"
    view.add_row("memory", _ms(found.memory), moved)
    view.add_row(
        "wire", _ms(found.wire), f"bytes sent at published bandwidth; {_ms(found.exposed)} beside no other work"
    )
    how = "the TPU compiler's cycles over the chip's clock" if estimate else "products + memory"
    view.add_row("work", _ms(found.work), how)
    pairs = trial.config.batch_size
    of = "products, memory" if pod.is_tpu else "products"
    busiest = f"the busiest links' {_ms(found.busiest)}"
    view.add_row(
        "step", _ms(found.step), f"work + exposed wire: MFU {found.mfu:.1%}, {pairs / found.step:,.0f} pairs/s"
    )
    view.add_row(
        "bound", _ms(found.bound), f"the largest of {of} and {busiest}, all overlapped: MFU {found.mfu_bound:.1%}"
    )
    return view


def _table(title: str, *columns: str) -> Table:
    view = Table(title=title, box=None, pad_edge=False, title_justify="left")
    for place, name in enumerate(columns):
        number = name in ("GB", "ms", "operations") or name.startswith(("TFLOP", "MB"))
        view.add_column(name, justify="right" if place and number else "left")
    return view


def _gb(size: float, unit: str = " GB") -> str:
    return f"{size / 1e9:,.3f}{unit}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f}"
