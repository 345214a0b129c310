"""clip-jax shrink: the student that a run under masks has chosen, cut out of its model."""

from pathlib import Path
from typing import cast, get_args

from absl import flags
from rich.console import Console

from clip_jax import tree
from clip_jax.cli.configs import parse
from clip_jax.cli.start import prepare
from clip_jax.drafts import check_destination
from clip_jax.interop.convert import convert
from clip_jax.masked_run import open_masked_run
from clip_jax.models.clip import abstract_params
from clip_jax.runs import Weights
from clip_jax.shrink import SAID

USAGE = """usage: clip-jax shrink RUN DST [--image_width N] [--image_hidden N] [--text_width N] [--text_hidden N] [--weights raw]

RUN: a run that trained with config.masks. DST: a new folder for the student, in clip_jax's layout: clip_jax.load opens it,
and configs/base.py:DST is its model with these weights. Widths are multiples of the head size; by default the sizes are those
that the masks keep."""

_FAR = 0.1  # of a tower's parameters, above what the masks were to keep


def main(argv: list[str]) -> int:
    """Exit code 0 once the student is written and read back with the same outputs."""
    values = flags.FlagValues()
    weights = flags.DEFINE_enum(
        "weights", "auto", get_args(Weights), "auto is the run's average where there is one", flag_values=values
    )
    sizes = {
        (said, what): flags.DEFINE_integer(
            f"{said}_{what}", 0, f"{said} tower: {meaning}; 0 for what the masks keep", flag_values=values
        )
        for said in SAID.values()
        for what, meaning in (("width", "channels"), ("hidden", "units of each MLP"))
    }
    given = parse(values, argv, USAGE)
    if len(given) != 2:
        raise ValueError(f"give RUN and DST, got {given or 'nothing'}; see clip-jax shrink --help")
    prepare()
    destination = Path(given[1])
    check_destination(destination)
    wanted = {key: flag.value for key, flag in sizes.items() if flag.value}
    run, student = open_masked_run(Path(given[0]), wanted, weights=cast(Weights, weights.value))
    convert(student, destination, "clip_jax")
    whole, left = abstract_params(run.model), abstract_params(student.config)
    goal = 1 - run.masks.stages[-1]
    shares = {said: tree.count(left[tower]) / tree.count(whole[tower]) for tower, said in SAID.items()}
    masked = {said: share for said, share in shares.items() if getattr(run.masks, said)}
    console = Console(soft_wrap=True)
    console.print(f"done: {destination}, {tree.count(left):,} of {tree.count(whole):,} parameters")
    said = ", ".join(f"{share:.0%} of the {name} tower" for name, share in masked.items())
    console.print(f"kept: {said}; the masks were to keep {goal:.0%} of each")
    if not wanted and max(masked.values()) > goal + _FAR:
        console.print(
            "That is far more: the masks had not closed yet, or no multiple of the head size comes nearer. Train them for more "
            "steps or with a higher masks.lr, or give sizes here (--image_width, ...), which keep the widest open."
        )
    console.print(
        f"to train it on: configs/base.py:{destination} is its model with these weights; configs/distill_tinyclip.py takes a "
        "folder that holds it as `student` beside the teacher's store"
    )
    return 0
