"""clip-jax train: from a config and a folder to a trained model."""

from collections.abc import Mapping
from pathlib import Path

import jax
from absl import flags
from rich.console import Console

from clip_jax.cli.configs import parse, take_config, to_dataclass
from clip_jax.cli.dry_run import print_plan
from clip_jax.cli.start import define_process_flags, start
from clip_jax.experiment import Plan
from clip_jax.peers import watched
from clip_jax.preemption import StopSignal
from clip_jax.run_folder import newest_step
from clip_jax.teaching import open_teachers
from clip_jax.train import train

USAGE = """usage: clip-jax train --config configs/X.py[:argument] --workdir DIR [--config.optim.lr=1e-3 ...] [--dry_run]

Trains, or goes on with the run in DIR where it holds a checkpoint. Ctrl-C and SIGTERM save one before they end it."""


def main(argv: list[str]) -> int:
    """Exit code: 0 for a run that is complete, --stopped_code for one that was told to stop."""
    values = flags.FlagValues()
    argv, edited = take_config(values, argv)
    workdir_flag = flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    dry_run = flags.DEFINE_bool("dry_run", False, "print parameters, placement, memory, schedule", flag_values=values)
    stopped_code = flags.DEFINE_integer(
        "stopped_code",
        0,
        "exit code of a run that was told to stop; launchers start it again",
        0,
        255,
        flag_values=values,
    )
    define_process_flags(values)
    if extra := parse(values, argv, USAGE):
        raise ValueError(f"unexpected {extra}; see clip-jax train --help")
    workdir = Path(workdir_flag.value or "")
    if edited is None or not (workdir_flag.value or dry_run.value):
        raise ValueError("give --config and --workdir; see clip-jax train --help")
    config = to_dataclass(edited)
    start(values)
    if dry_run.value:
        print_plan(Plan(config, open_teachers(config).offers), Console())
        return 0
    with watched(lambda: f"start the same command again, it goes on from step {newest_step(workdir):,}"):
        done = train(config, workdir, stop=StopSignal())
    if jax.process_index() == 0:
        what = "finished" if done.complete else "stopped, saved; the same command goes on"
        print(f"{what} at step {done.step:,} of {config.steps:,}; everything is in {workdir}")
        if done.timing:
            print(timing_words(done.timing))
    return 0 if done.complete else stopped_code.value


def timing_words(timing: Mapping[str, float]) -> str:
    """Where the time went, as one line. timing: the figures of clip_jax.clock."""
    parts = [
        f"goodput {timing['goodput']:.0%}",
        f"step {1000 * timing['step_p50']:,.0f} ms (p99 {1000 * timing['step_p99']:,.0f})",
        f"loader wait {timing['loader_wait']:.0%}",
        f"held up by checkpoints {timing['checkpoint_stall']:.1f} s",
    ]
    if "mfu" in timing:
        parts.append(f"MFU {timing['mfu']:.0%}")
    if "device_memory_gb" in timing:
        parts.append(f"device memory {timing['device_memory_gb']:.1f} GB")
    return ", ".join(parts)
