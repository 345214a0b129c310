"""A model as others can take it: one folder in all layouts that can hold it, with figures, weaknesses and a licence."""

import dataclasses
import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clip_jax.drafts import check_destination, drafted
from clip_jax.evals.suite import read_json
from clip_jax.experiment import TrainConfig
from clip_jax.interop import card
from clip_jax.interop.card_tables import architecture, cell, preparation, table
from clip_jax.interop.convert import convert, origin_of
from clip_jax.interop.proof.gate import Difference
from clip_jax.interop.recognize import Opened, open_weights
from clip_jax.interop.scrub import scrubbed
from clip_jax.interop.write import CHECKS
from clip_jax.plain import from_dict
from clip_jax.run_folder import EVALUATION
from clip_jax.weaknesses import weaknesses
from clip_jax.writers import write_json

_log = logging.getLogger(__name__)

LAYOUTS = ("huggingface", "open_clip", "openai")
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """differences: by layout, of the model and what was read back. left_out: layouts that cannot hold it, and why."""

    differences: dict[str, Difference]
    left_out: dict[str, str]


def check_licence(licence: str) -> None:
    """Raises ValueError for what cannot be an identifier of a licence on the hub."""
    if not _LICENCE.fullmatch(licence):
        raise ValueError(
            f"--license is {licence!r}; give the identifier of a licence, in lower case: apache-2.0, mit, cc-by-4.0, other"
        )


def publish(
    source: Opened, destination: Path, *, licence: str, name: str = "", evaluation: Path | None = None
) -> Published:
    """Writes `destination`: weights for transformers, open_clip and OpenAI's code, each proven as `convert` proves it, their
    settings and tokenizers, the figures of an evaluation, and README.md, a model card.

    name: by which the card loads it, org/repo on the hub; by default the folder's. evaluation: a file evaluation.json, by
    default the run's own. Raises ValueError where no layout can hold the model, for a licence that is none, and for an
    evaluation that is damaged; NotProven as convert does.
    """
    check_licence(licence)
    check_destination(destination)
    left_out = {layout: why for layout in LAYOUTS if (why := _refusal(layout, source))}
    layouts = [layout for layout in LAYOUTS if layout not in left_out]
    if not layouts:
        raise ValueError(f"no layout can hold this model: {'; '.join(left_out.values())}")
    origin = origin_of(source)
    measured = _evaluation(evaluation, origin)
    differences: dict[str, Difference] = {}
    with drafted(destination) as draft:
        for layout in layouts:
            part = draft / f".{layout}"
            differences[layout] = convert(source, part, layout).difference
            _move_up(part, draft)
        open_weights(draft)  # the files of several layouts beside each other are a model still
        if measured:
            write_json(draft / EVALUATION, measured)
        done = Published(differences=differences, left_out=left_out)
        text = _card(name or destination.name, source, origin, measured, done, licence)
        (draft / "README.md").write_text(text, encoding="utf-8")
    return done


def _refusal(layout: str, source: Opened) -> str:
    try:
        CHECKS[layout](source.config)
    except ValueError as error:
        return str(error)
    return ""


def _evaluation(file: Path | None, origin: Mapping[str, Any]) -> dict[str, Any] | None:
    """The content of a file, or else what is known of a run's; None without either. Raises ValueError for one that a card
    cannot be written of, and for one of other weights."""
    if file is None:
        found = origin.get("evaluation")
        if found is None:
            _log.warning(
                "no evaluation of these weights is known, so the card has no figures; clip-jax evaluate makes one"
            )
            return None
        file = Path(EVALUATION)
    else:
        try:
            found = scrubbed(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} cannot be read as an evaluation.json of clip-jax evaluate: {error}") from error
    try:
        about, _ = read_json(json.dumps(found))
        card.evaluation(found)  # what would fail later fails now
        _weaknesses(found)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} cannot be read as an evaluation.json of clip-jax evaluate: {error}") from error
    for what in ("step", "weights"):
        if what in about and what in origin and about[what] != origin[what]:
            raise ValueError(
                f"{file} measured {what} {about[what]}, and these weights are of {what} {origin[what]}: evaluate these"
            )
    return found


def _move_up(part: Path, folder: Path) -> None:
    """All files but the layout's own card; those that several layouts share are equal."""
    (part / "README.md").unlink()
    for file in part.iterdir():
        if (folder / file.name).exists():
            assert (folder / file.name).read_bytes() == file.read_bytes(), file.name
        else:
            file.rename(folder / file.name)
    shutil.rmtree(part)


def _card(
    name: str,
    source: Opened,
    origin: Mapping[str, Any],
    measured: dict[str, Any] | None,
    done: Published,
    licence: str,
) -> str:
    config, layouts = source.config, tuple(done.differences)
    scale = float(np.exp(source.params["logit_scale"]))
    bias = float(source.params["logit_bias"]) if "logit_bias" in source.params else None
    run = from_dict(TrainConfig, origin["training"], "training") if "training" in origin else None
    sections = (
        ("How to load it", card.loading(name, layouts, config)),
        ("Evaluation", card.evaluation(measured) if measured else None),
        ("Known weaknesses", _weaknesses(measured)),
        ("Architecture", architecture(config, scale, bias)),
        ("Input", preparation(config)),
        ("Training", None if run is None else card.training(run)),
        ("The files", _files(source, done)),
    )
    library = "transformers" if "huggingface" in layouts else "open_clip" if "open_clip" in layouts else "clip_jax"
    return card.page(name, config, sections, front={"license": licence, "library_name": library})


def _weaknesses(measured: dict[str, Any] | None) -> str:
    if measured is None:
        return "None is known, for nothing was measured."
    lines = [f"* {cell(line)}" for line in weaknesses(read_json(json.dumps(measured))[1])]
    return "\n".join([*lines, "", "What is not in the table above was not measured."])


def _files(source: Opened, done: Published) -> str:
    rows = [
        (layout, f"{one.image:.1e}", f"{one.text:.1e}", f"{one.logits:.1e}", f"{one.by[0]}; {one.by[1]}")
        for layout, one in done.differences.items()
    ]
    proof = table(("layout", "image embeddings", "text embeddings", "logits", "computed by"), rows)
    parts = [
        f"Written by clip_jax from {cell(source.said)}. Source and result ran on the same images and captions in f32; the "
        f"largest differences of an element of an embedding of length 1, and of a logit:\n\n{proof}"
    ]
    parts += [f"Not in {layout}'s layout: {cell(why)}." for layout, why in done.left_out.items()]
    return "\n\n".join(parts)
