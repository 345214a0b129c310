"""clip-jax export: a model's towers for phones, browsers and servers, each file measured before it says done."""

from pathlib import Path
from typing import cast, get_args

from absl import flags
from rich import box
from rich.console import Console
from rich.table import Table

from clip_jax.cli.configs import parse
from clip_jax.cli.start import prepare
from clip_jax.drafts import check_destination
from clip_jax.export.card import explained, measured_rows
from clip_jax.export.folder import Order, export_model
from clip_jax.export.formats import FORMATS, Kind, check_installed
from clip_jax.export.graph import TOWERS, Tower
from clip_jax.export.measure import TOP
from clip_jax.export.record import Record
from clip_jax.interop.packing import PRECISIONS, Precision
from clip_jax.interop.proof import gate
from clip_jax.interop.recognize import open_weights
from clip_jax.runs import Weights

USAGE = f"""usage: clip-jax export --checkpoint R --format {",".join(FORMATS)} --precision {",".join(PRECISIONS)} OUT

R: a run folder, or whatever else clip_jax.load opens. OUT: a new folder, with a folder for each format and precision, the
tokenizer, export.json with what was measured, and a README.md that says how each file is run. Every file runs on the same real
images and captions as the model itself; none is handed out that is further from it than its precision explains.

onnx and jax take any batch, unless --batch says another; coreml and litert have a fixed one, 1 by default; safetensors holds
both towers always, for clip_jax.load. Needs pip install 'clip_jax[export]', but for safetensors and jax."""


def main(argv: list[str]) -> int:
    """Exit code 0 once all files are proven, 1 where one is not."""
    values = flags.FlagValues()
    checkpoint = flags.DEFINE_string("checkpoint", None, "the model", flag_values=values)
    formats = flags.DEFINE_list("format", [], f"of {', '.join(FORMATS)}", flag_values=values)
    precisions = flags.DEFINE_list("precision", ["f32"], f"of {', '.join(PRECISIONS)}", flag_values=values)
    towers = flags.DEFINE_list("towers", ["image", "text"], f"of {', '.join(TOWERS)}", flag_values=values)
    batch = flags.DEFINE_integer("batch", 0, "of every call; 0 for any, or 1", lower_bound=0, flag_values=values)
    preprocess = flags.DEFINE_bool(
        "preprocess", False, "scaling and normalising inside: pixels come as bytes", flag_values=values
    )
    weights = flags.DEFINE_enum(
        "weights", "auto", get_args(Weights), "of a run: auto is the average where there is one", flag_values=values
    )
    given = parse(values, argv, USAGE)
    if len(given) != 1 or not checkpoint.value or not formats.value:
        raise ValueError(f"give --checkpoint, --format and OUT, got {given or 'nothing'}; see clip-jax export --help")
    for name, chosen, allowed in (
        ("format", formats.value, tuple(FORMATS)),
        ("precision", precisions.value, PRECISIONS),
        ("towers", towers.value, TOWERS),
    ):
        _check(name, chosen, allowed)
    prepare()
    destination, console = Path(given[0]), Console(soft_wrap=True)
    check_destination(destination)
    check_installed(formats.value)
    order = Order(
        kinds=[Kind(format=one, precision=cast(Precision, bits)) for one in formats.value for bits in precisions.value],
        towers=cast(list[Tower], towers.value),
        preprocess=bool(preprocess.value),
        batch=batch.value or None,
    )
    try:
        record = export_model(open_weights(checkpoint.value, weights=cast(Weights, weights.value)), destination, order)
    except gate.NotProven as error:
        console.print(f"[bold red]not proven[/] {error}")
        return 1
    except KeyboardInterrupt:
        console.print("stopped; nothing is left behind")
        return 130
    console.print(_table(record))
    console.print(explained(record))
    console.print(f"done: {destination}; its README.md says how each file is run")
    return 0


def _check(name: str, chosen: list[str], allowed: tuple[str, ...]) -> None:
    unknown = [one for one in chosen if one not in allowed]
    if unknown or not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"--{name} is {','.join(chosen)!r}; give some of {', '.join(allowed)}, each once, with commas")


def _table(record: Record) -> Table:
    """In 80 columns."""
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    shown.add_column("file", no_wrap=True)
    for title in ("MB", "p50", "p95", "largest", "cosine", f"top {TOP}"):
        shown.add_column(title, justify="right", no_wrap=True)
    for path, megabytes, _, p50, p95, largest, _, *rest in measured_rows(record):
        shown.add_row(path.rsplit(".", 1)[0], megabytes, p50, p95, largest, *rest)
    return shown
