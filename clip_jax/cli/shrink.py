"""clip-jax shrink: the student that a run under masks has chosen, cut out of its model."""

from pathlib import Path
from typing import cast, get_args

from absl import flags
from rich.console import Console

from clip_jax.cli.configs import parse
from clip_jax.cli.start import prepare
from clip_jax.interop.convert import check_destination, convert
from clip_jax.masked_run import open_masked_run
from clip_jax.models.clip import count_parameters
from clip_jax.runs import Weights
from clip_jax.shrink import SAID

USAGE = """usage: clip-jax shrink RUN DST [--image_width N] [--image_hidden N] [--text_width N] [--text_hidden N]

RUN: a run that trained with config.masks. DST: a new folder for the student, in clip_jax's layout: clip_jax.load opens it,
and config.init_from=DST trains it on. Widths are multiples of the head size; by default the sizes are those the masks keep."""


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
    model, student = open_masked_run(Path(given[0]), wanted, weights=cast(Weights, weights.value))
    convert(student, destination, "clip_jax")
    before, after = count_parameters(model), count_parameters(student.config)
    Console(soft_wrap=True).print(
        f"done: {destination}, {after:,} of {before:,} parameters; train it on with --config.init_from={destination} and "
        "the model of its clip_jax.json"
    )
    return 0
