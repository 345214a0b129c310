"""clip-jax publish: a model in the layouts that others load, with a card, as a folder or on the Hugging Face Hub."""

from pathlib import Path
from typing import cast, get_args

from absl import flags
from rich.console import Console

from clip_jax.cli.configs import parse
from clip_jax.cli.start import prepare
from clip_jax.drafts import check_destination
from clip_jax.interop.files import hub
from clip_jax.interop.proof import gate
from clip_jax.interop.recognize import open_weights
from clip_jax.publishing import check_licence, publish
from clip_jax.runs import Weights

USAGE = """usage: clip-jax publish SRC --to DIR|hf-hub:org/repo --license ID [--evaluation FILE] [--private]

SRC: a run, or whatever else clip_jax.load opens. Writes a new folder that transformers, open_clip and OpenAI's code load, each as
far as it can hold the model and each proven on real images and captions; tokenizer, preprocessing, the figures of the run's
evaluation.json (or of --evaluation), and a model card with what the model is known to do badly. With hf-hub:org/repo the folder
is ./repo, and is uploaded once it is complete; `hf auth login` first."""


def main(argv: list[str]) -> int:
    """Exit code 0 once all is written, and uploaded where that was asked for; 1 where a layout is not proven."""
    values = flags.FlagValues()
    to = flags.DEFINE_string("to", "", "a folder, or hf-hub:org/repo", flag_values=values)
    licence = flags.DEFINE_string("license", "", "of the weights: apache-2.0, mit, cc-by-4.0, ...", flag_values=values)
    evaluation = flags.DEFINE_string("evaluation", "", "an evaluation.json, in place of the run's", flag_values=values)
    private = flags.DEFINE_bool("private", False, "a new repository is seen by its owners only", flag_values=values)
    weights = flags.DEFINE_enum(
        "weights", "auto", get_args(Weights), "of a run: auto is the average where there is one", flag_values=values
    )
    given = parse(values, argv, USAGE)
    if len(given) != 1 or not to.value or not licence.value:
        raise ValueError(f"give SRC, --to and --license, got {given or 'nothing'}; see clip-jax publish --help")
    target, console = to.value, Console(soft_wrap=True)
    check_licence(licence.value)
    repo = hub.repo_of(target) if target.startswith("hf-hub:") else ""
    if private.value and not repo:
        raise ValueError(f"--private is for --to hf-hub:org/repo, not for the folder {target}; leave it out")
    destination = Path(repo.rpartition("/")[2] if repo else target)
    prepare()
    check_destination(destination)
    if repo:
        hub.check_login()
    try:
        done = publish(
            open_weights(given[0], weights=cast(Weights, weights.value)),
            destination,
            licence=licence.value,
            name=repo,
            evaluation=Path(evaluation.value) if evaluation.value else None,
        )
    except gate.NotProven as error:
        console.print(f"[bold red]not proven[/] {error}")
        return 1
    except KeyboardInterrupt:
        console.print("stopped; nothing is left behind")
        return 130
    for layout, why in done.left_out.items():
        console.print(f"not in {layout}'s layout: {why}", markup=False)
    said = ", ".join(f"{layout} (logits within {one.logits:.0e})" for layout, one in done.differences.items())
    console.print(f"done: {destination}, for {said}; its README.md is the card", markup=False)
    if repo:
        console.print(f"uploaded: {hub.upload(destination, repo, private=bool(private.value))}", markup=False)
    return 0
