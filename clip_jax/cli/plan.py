"""clip-jax plan: what a config needs on a pod and how fast it would run there, without the pod."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from absl import flags
from rich.console import Console

from clip_jax.cli.configs import parse, take_config, to_dataclass
from clip_jax.cli.start import prepare
from clip_jax.experiment import TrainConfig
from clip_jax.models.clip import CLIPConfig
from clip_jax.plan.child import check_possible, compiled_for
from clip_jax.plan.chips import CHIPS, Pod, parse_pod
from clip_jax.plan.compiled import Compiled
from clip_jax.plan.fit import tried
from clip_jax.plan.words import one_line, print_trial, print_verdict, to_json
from clip_jax.teachers import Offer
from clip_jax.teaching import open_teachers

USAGE = f"""usage: clip-jax plan --config configs/X.py[:argument] --topology CHIP:SHAPE [--json FILE]

Compiles the training step for a pod that need not be there, and prints memory by kind, FLOPs, what travels between chips and
the time of a step; where it does not fit, settings that do. Minutes of one core; allocates nothing. TPUs (v5e:16x16,
v5p:16x16x24) take libtpu: pip install "clip_jax[plan]". GPUs (h100:64) are planned by the program for CPU devices.
There are {", ".join(CHIPS)}."""


def main(argv: list[str]) -> int:
    """Exit code 0 where the config fits as it is, 1 where it does not."""
    values = flags.FlagValues()
    argv, edited = take_config(values, argv)
    topology = flags.DEFINE_string("topology", "", "CHIP:SHAPE, such as v5e:16x16 or h100:64", flag_values=values)
    written = flags.DEFINE_string(
        "json", "", "write all figures there; - for stdout, and no tables", flag_values=values
    )
    search = flags.DEFINE_bool("search", True, "look for settings that fit, where these do not", flag_values=values)
    if extra := parse(values, argv, USAGE):
        raise ValueError(f"unexpected {extra}; see clip-jax plan --help")
    if edited is None or not topology.value:
        raise ValueError("give --config and --topology; see clip-jax plan --help")
    config, pod = to_dataclass(edited), parse_pod(topology.value)
    check_possible(pod)
    prepare()
    console = Console(soft_wrap=True, stderr=written.value == "-")
    teachers, trials = open_teachers(config), []
    compile_ = _showing_progress(console, teachers.models)
    for trial in tried(config, teachers.offers, pod, compile_, search=search.value):
        if not trials:
            print_trial(trial, pod, console)
            console.print()
        if not trial.fits or trials:
            console.print(one_line(trial, pod))
        trials.append(trial)
    print_verdict(trials, pod, console)
    if written.value:
        text = json.dumps(to_json(trials, pod), indent=1)
        if written.value == "-":
            sys.stdout.write(text + "\n")
        else:
            Path(written.value).write_text(text + "\n")
    return 0 if trials[0].fits else 1


def _showing_progress(console: Console, live: Mapping[str, CLIPConfig]):
    def compile_(config: TrainConfig, offers: Mapping[str, Offer], pod: Pod) -> Compiled:
        with console.status("") as status:

            def waiting(seconds: float) -> None:
                status.update(f"compiling for {pod.size:,} chips ... {seconds:,.0f} s")

            return compiled_for(config, offers, pod, waiting, live)

    return compile_
