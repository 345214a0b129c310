"""clip-jax convert: weights from any layout to any other, proven on real images and captions."""

from pathlib import Path
from typing import cast, get_args

from absl import flags
from rich.console import Console

from clip_jax.cli.configs import parse
from clip_jax.cli.start import prepare
from clip_jax.drafts import check_destination
from clip_jax.interop.convert import convert
from clip_jax.interop.proof import gate
from clip_jax.interop.recognize import open_weights
from clip_jax.interop.write import TARGETS
from clip_jax.runs import Weights

USAGE = """usage: clip-jax convert SRC DST --to clip_jax|openai|open_clip|huggingface [--weights auto|ema|raw] [--model NAME]

SRC: a run folder, a file or folder of OpenAI, open_clip, Hugging Face, SigLIP (big_vision npz too), or hf-hub:org/repo; it is
recognised by its content. DST: a new folder, with weights, all settings, tokenizer and model card. Before it says done, both
run on the same real images and captions, and no embedding and no logit may differ by more than --tolerance."""


def main(argv: list[str]) -> int:
    """Exit code 0 once the result is proven, 1 where it differs."""
    values = flags.FlagValues()
    to = flags.DEFINE_enum("to", None, tuple(TARGETS), "the layout of the result", flag_values=values)
    weights = flags.DEFINE_enum(
        "weights", "auto", get_args(Weights), "of a run: auto is the average where there is one", flag_values=values
    )
    model = flags.DEFINE_string("model", "", "open_clip's name, for a file that does not say", flag_values=values)
    tokenizer = flags.DEFINE_string("tokenizer", "", "a tokenizer.json, for weights without theirs", flag_values=values)
    tolerance = flags.DEFINE_float(
        "tolerance", gate.TOLERANCE, "largest difference of an embedding or a logit that passes", flag_values=values
    )
    given = parse(values, argv, USAGE)
    if len(given) != 2 or to.value is None:
        raise ValueError(f"give SRC, DST and --to, got {given or 'nothing'}; see clip-jax convert --help")
    prepare()
    console = Console(soft_wrap=True)
    destination = Path(given[1])
    check_destination(destination)
    try:
        done = convert(
            open_weights(
                given[0], weights=cast(Weights, weights.value), model=model.value or "", tokenizer=tokenizer.value or ""
            ),
            destination,
            to.value,
            tolerance=tolerance.value,
        )
    except gate.NotProven as error:
        console.print(f"[bold red]not proven[/] {error}")
        return 1
    except KeyboardInterrupt:
        console.print("stopped; nothing is left behind")
        return 130
    console.print(gate.table(done.difference))
    if done.pixels is not None:
        console.print(
            f"as its own library prepares them, images differ from ours by at most {done.pixels:.0f} of 255 grey levels "
            "(up to 3 are rounding; a crop that is one pixel off gives more)"
        )
    console.print(f"done: {destination}, in the layout of {to.value}; its README.md says how to load it")
    return 0
