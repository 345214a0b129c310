"""From any layout to any other: read, write, prove by numbers, and only then call it done."""

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from clip_jax.drafts import check_destination, drafted
from clip_jax.experiment import TrainConfig
from clip_jax.interop.card import Provenance, model_card
from clip_jax.interop.proof import gate, prepared
from clip_jax.interop.recognize import Opened, open_weights
from clip_jax.interop.scrub import scrubbed
from clip_jax.interop.write import CHECKS, TARGETS
from clip_jax.models.clip import CLIPConfig
from clip_jax.plain import from_dict, to_dict
from clip_jax.run_folder import EVALUATION
from clip_jax.runs import read_config

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Converted:
    """result: the model as it was read back. difference: of its outputs and the source's on real images and captions.

    pixels: largest difference, in grey levels, between the images as the result's own library prepares them and as we do;
    None where that library is not installed or prepares none.
    """

    result: Opened
    difference: gate.Difference
    pixels: float | None


def convert(source: Opened, destination: Path, to: str, *, tolerance: float = gate.TOLERANCE) -> Converted:
    """Writes the folder `destination` in the layout `to`, and runs source and result on the same images and captions.

    Until the proof has succeeded the folder is called DESTINATION.unproven, and there it stays where it fails (drafts.py).
    Raises ValueError where the layout cannot hold the model or the folder cannot be written, NotProven where an embedding or
    a logit differs by more than `tolerance`, or where the result's own library reads the captions as other ids.
    """
    _log.info("%s: %s", source.path, source.said)
    check_destination(destination)
    _check_layout(source.config, to)
    card = _card(source, destination.name, to)
    before = outputs(source)
    source = dataclasses.replace(source, state={})  # its arrays are in params; large models are held once less
    with drafted(destination) as draft:
        _write(draft, source, to)
        _log.info("written; now the result runs on the same %d images and captions", gate.COUNT)
        result = open_weights(draft)
        difference = gate.compare(before, outputs(result))
        result = dataclasses.replace(result, state={})
        gate.check(difference, tolerance)
        pixels = _check_prepared(draft, result, to)
        (draft / "README.md").write_text(card(difference))
    return Converted(result=result, difference=difference, pixels=pixels)


def _check_layout(config: CLIPConfig, to: str) -> None:
    try:
        CHECKS[to](config)
    except ValueError as error:
        others = [f"--to {name}" for name in CHECKS if name not in (to, "clip_jax") and _can_hold(config, name)]
        raise ValueError(f"{error}; this one also fits {' and '.join(others)}" if others else str(error)) from error


def _can_hold(config: CLIPConfig, layout: str) -> bool:
    try:
        CHECKS[layout](config)
    except ValueError:
        return False
    return True


def _write(draft: Path, source: Opened, to: str) -> None:
    try:
        params = jax.tree.map(np.asarray, jax.device_get(source.params))
        TARGETS[to](draft, source.config, params, origin_of(source))
    except (ValueError, ModuleNotFoundError):
        raise
    except Exception as error:  # each library has a type of its own for a full disk
        raise ValueError(f"{draft} cannot be written: {str(error).splitlines()[0]}") from error


def _check_prepared(draft: Path, result: Opened, to: str) -> float | None:
    """What the result's own library makes of the captions and the images; Converted.pixels."""
    try:
        texts = prepared.differing_texts(to, draft, result.config)
        pixels = prepared.pixel_difference(to, draft, result.config)
    except ValueError as error:
        raise gate.NotProven(str(error)) from error
    if texts:
        raise gate.NotProven(
            f"the result's own library reads {len(texts)} captions as other ids, among them {texts[0]!r}"
        )
    return pixels


def outputs(opened: Opened) -> gate.Outputs:
    """What a model gives for the gate's images and captions, prepared as its own settings say, and computed by the library
    whose layout it lies in."""
    pixels, tokens = gate.inputs(opened.config)
    if opened.layout == "clip_jax":
        return gate.ours(opened.config, opened.params, pixels, tokens)
    folder = opened.path if opened.path.is_dir() else None
    foreign = gate.Foreign(layout=opened.layout, path=folder, state=opened.state, settings=opened.settings)
    return gate.run(foreign, pixels, tokens)


def origin_of(source: Opened) -> dict[str, Any]:
    """What is known of where the weights came from, for clip_jax.json: the source, and a run's training and evaluation; of
    paths and addresses their last names."""
    known = {key: source.origin[key] for key in ("training", "evaluation", "step", "weights") if key in source.origin}
    if source.run is not None:
        known = {"step": source.step, "weights": source.weights, "training": to_dict(read_config(source.run))}
        if evaluation := _evaluation(source.run, source):
            known["evaluation"] = evaluation
    return {"source": f"{source.path.name}: {source.said}"} | scrubbed(known)


def _card(source: Opened, name: str, to: str) -> Callable[[gate.Difference], str]:
    """The model card, but for the difference; what it is made of is read now, before anything is written."""
    origin = origin_of(source)
    training = from_dict(TrainConfig, origin["training"], "training") if "training" in origin else None
    scale = float(np.exp(source.params["logit_scale"]))
    bias = float(source.params["logit_bias"]) if "logit_bias" in source.params else None

    def card(difference: gate.Difference) -> str:
        provenance = Provenance(
            source=source.said,
            run=training,
            evaluation=origin.get("evaluation"),
            difference=difference,
            logit_scale=scale,
            logit_bias=bias,
        )
        return model_card(name, to, source.config, provenance)

    return card


def _evaluation(run: Path, source: Opened) -> dict[str, Any] | None:
    """The run's last evaluation, where it can be read and measured these weights."""
    try:
        found = json.loads((run / EVALUATION).read_text())
        about = found["about"]
        same = (about["step"], about["weights"]) == (source.step, source.weights)
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        _log.warning("%s is damaged and left out of the card: %s", run / EVALUATION, error)
        return None
    return found if same else None
