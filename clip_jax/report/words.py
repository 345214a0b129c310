"""The report in words: what was learned, what was not, what to try next; and its settings."""

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np

from clip_jax.data.sources import MixtureConfig
from clip_jax.models.clip import CLIPConfig
from clip_jax.models.presets import NAMES, preset
from clip_jax.objectives import ObjectiveConfig
from clip_jax.plain import to_dict
from clip_jax.report.figures import Headline, apart, figure_words, percent, times
from clip_jax.report.read import Recorded
from clip_jax.teachers import AverageTeacher, LiveTeacher, StoreTeacher, TeacherConfig

_SLOW_LOADER = 0.2  # share of the time

OWN_DATA = """\
# configs/mine.py; train it: {command} train --config configs/mine.py --workdir runs/mine
from clip_jax.data.webdataset import WebDatasetConfig
from configs.base import get_config as base
from configs.base import part


def get_config():
    config = base("ViT-B-32")
    config.source = part(WebDatasetConfig(urls="shards/{{00000..00041}}.tar", name="mine"))
    return config"""


def learned(run: Recorded) -> str:
    """One or two plain sentences."""
    above, rest = apart(run.outcomes)
    if not (above or rest):
        if "loss" not in run.metrics:
            return "Nothing was measured yet."
        first, last = run.metrics["loss"].values[[0, -1]]
        return f"The loss went from {first:.2f} to {last:.2f}; nothing else was measured yet."
    if not above:
        return (
            "Nothing that these evaluations can see was learned: "
            f"{listing([f'{headline.name} is {headline.verdict}' for headline in rest])}."
        )
    best = above[0]
    counts = run.outcomes[best.name].counts
    text = _sentence(best, counts)
    same = [f"{one.name} {_reached(one)}" for one in above[1:] if one.figure == best.figure]
    others = [f"{figure_words(one.figure)} on {one.name} {_reached(one)}" for one in above if one.figure != best.figure]
    if same:
        text += f" The same figure elsewhere: {listing(same)}."
    if others:
        text += f" Also {listing(others)}."
    if rest:
        text += f" Not learned: {listing([f'{headline.name} ({headline.verdict})' for headline in rest])}."
    return text


def failed(run: Recorded) -> list[str]:
    """What went wrong or stayed low, a sentence each."""
    above, rest = apart(run.outcomes)
    lines = []
    for headline in rest:
        chance = percent(headline.number.chance) or "unknown"
        reached = f"{figure_words(headline.figure)} {percent(headline.number.value)}, chance {chance}"
        lines.append(f"{headline.name}: {headline.verdict} ({reached}). {_why(run, headline)}")
    known = [one for one in above if one.number.times]  # farthest above chance first
    if len(known) > 1:
        low = known[-1]
        lines.append(
            f"The weakest that is above chance: {low.name}, {figure_words(low.figure)} {percent(low.number.value)}, "
            f"{times(low.number)} times chance."
        )
    if skipped := run.last("skipped"):
        lines.append(f"Skipped steps: {skipped:,.0f} of {run.step:,}; their loss or gradient was not finite.")
    if replaced := run.last("replaced"):
        drawn = run.step * run.config.batch_size
        lines.append(f"Replaced samples: {replaced:,.0f} of {drawn:,}; they could not be read.")
    return lines


def next_steps(run: Recorded, command: str) -> list[tuple[str, list[str]]]:
    """What to try: why, and the command in pieces to be joined by spaces. `command`: how clip-jax is called here."""
    config, folder = run.config, run.folder
    file, note = shlex.quote(config.origin), ""
    if not config.origin:
        file, note = "CONFIG.py", " (CONFIG.py: the file you trained with)"

    def train(suffix: str, *changes: str, factor: int = 1) -> list[str]:
        workdir = shlex.quote(str(folder.with_name(f"{folder.resolve().name}-{suffix}")))
        length = f"--config.steps={factor * config.steps}"
        warmup = f"--config.optim.warmup_steps={factor * config.optim.warmup_steps}"
        return [f"{command} train", f"--config {file}", f"--workdir {workdir}", length, warmup, *changes]

    steps = []
    if not run.measured:
        evaluate = [f"{command} evaluate {shlex.quote(str(folder))}"]
        steps.append(("Measure it, with chance and pictures; then draw this report again.", evaluate))
    if run.last("skipped"):
        rate = f"--config.optim.lr={config.optim.lr / 2:g}"
        steps.append((f"Half the learning rate, for fewer skipped steps{note}.", train("lower-lr", rate)))
    if (wait := loader_wait(run)) > _SLOW_LOADER:
        workers = f"--config.read.workers={max(2, 2 * config.read.workers)}"
        why = f"More workers: training waits for the loader {percent(wait)} of the time{note}."
        steps.append((why, train("workers", workers)))
    steps.append((f"Train twice as long{note}.", train("longer", factor=2)))
    if wider := _wider(config.model):
        steps.append((f"Towers half as wide again{note}.", train("wider", *wider)))
    return steps


def loader_wait(run: Recorded) -> float:
    """Mean share of the time that was spent waiting for the loader; 0 where it is unknown."""
    values = run.timing["loader_wait"].values if "loader_wait" in run.timing else np.zeros(1)
    return float(np.nanmean(values)) if np.isfinite(values).any() else 0.0


def model_words(config: CLIPConfig) -> str:
    """open_clip's name where the architecture has one, else its sizes."""
    vision, text = to_dict(config.vision_cfg), to_dict(config.text_cfg)
    sizes = (
        f"image tower {vision['layers']} x {vision['width']}, text tower {text['layers']} x {text['width']}, "
        f"{vision['image_size']} px"
    )
    name = _name(config)
    return f"{name} ({sizes})" if name else sizes


def objective_words(config: ObjectiveConfig) -> str:
    """Its losses and their weights: "info_nce x 1 and crd x 0.5"."""
    return listing([f"{name} x {weight:g}" for name, weight in config.weights.items()])


def teachers_words(teachers: Mapping[str, TeacherConfig]) -> str:
    """All of a run's; an empty text for none."""
    return listing([teacher_words(config) for config in teachers.values()])


def teacher_words(config: TeacherConfig) -> str:
    """ "a store (runs/store)", "live (ViT-L-14.pt)" or "its own average"."""
    match config:
        case StoreTeacher():
            return f"a store ({config.path})"
        case LiveTeacher():
            return f"live ({config.model})"
        case AverageTeacher():
            return "its own average"


def source_words(config: Any) -> str:
    """A source by its kind and what was set of it: "glyphs (split train)"."""
    if isinstance(config, MixtureConfig):
        return "a mixture of " + listing([f"{source_words(part.source)} x {part.weight:g}" for part in config.parts])
    kind = to_dict(config)["kind"]
    fields = [
        f"{field.name} {_value_words(getattr(config, field.name))}"
        for field in dataclasses.fields(config)
        if field.name == "split" or getattr(config, field.name) != field.default
    ]
    return f"{kind} ({', '.join(fields)})" if fields else kind


def listing(parts: list[str]) -> str:
    """ "a, b and c" """
    return " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part) if parts else ""


def _value_words(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value[:3])) + (f" and {len(value) - 3} more" if len(value) > 3 else "")
    return str(value)


def _sentence(headline: Headline, counts: Mapping[str, int]) -> str:
    share, chance = percent(headline.number.value), percent(headline.number.chance)
    guess = f"; guessing would give {chance}, so this is {times(headline.number)} times chance" if chance else ""
    if headline.figure == "text_to_image_r1":
        among = f" of {counts['images']:,}" if "images" in counts else ""
        return f"On {headline.name}, {share} of the texts find their own picture as the first{among}{guess}."
    if headline.figure == "top1":
        among = f" out of {counts['classes']:,}" if "classes" in counts else ""
        return f"On {headline.name}, {share} of the pictures get the right name{among}{guess}."
    if headline.figure.startswith("overlap_at_"):
        top = headline.figure.removeprefix("overlap_at_")
        return (
            f"On {headline.name}, {share} of the teacher's first {top} pictures for a text are in the student's{guess}."
        )
    if headline.figure == "swap_accuracy":
        return f"On {headline.name}, {share} of the pictures prefer their caption to the same one in each other colour{guess}."
    return f"On {headline.name}, {figure_words(headline.figure)} is {share}{guess}."


def _reached(headline: Headline) -> str:
    ratio = f" ({times(headline.number)} x chance)" if headline.number.times else ""
    return f"{percent(headline.number.value)}{ratio}"


def _why(run: Recorded, headline: Headline) -> str:
    if headline.verdict == "below chance":
        return "Worse than guessing: look for wrong labels, or embeddings that are all alike."
    if headline.verdict == "not finite":
        return "The weights may not be finite: evaluate an earlier checkpoint with --step."
    evaluation = to_dict(run.config.evals[headline.name]) if headline.name in run.config.evals else {}
    trained = _kinds(to_dict(run.config.source))
    measured = _kinds(evaluation["source"]) if "source" in evaluation else trained
    if not measured & trained:
        return f"What was learned from {listing(sorted(trained))} did not carry over to {listing(sorted(measured))}."
    return "It was not learned yet: train longer, or look at the loss."


def _kinds(source: Mapping[str, Any]) -> set[str]:
    """Of a source, or of all that a mixture draws from."""
    if "parts" not in source:
        return {source["kind"]}
    return {kind for part in source["parts"] for kind in _kinds(part["source"])}


def _name(config: CLIPConfig) -> str:
    """open_clip's, or "" for an architecture without one."""
    names = (name for base in NAMES for name in (base, f"{base}-quickgelu"))
    return next((name for name in names if _architecture(preset(name)) == _architecture(config)), "")


def _architecture(config: CLIPConfig) -> Any:
    return config.embed_dim, config.vision_cfg, config.text_cfg, config.quick_gelu


def _wider(config: CLIPConfig) -> list[str]:
    """Flags for towers half as wide again, where their heads divide that."""
    vision, text = to_dict(config.vision_cfg), to_dict(config.text_cfg)
    if not ({"width", "head_width"} <= vision.keys() and {"width", "heads"} <= text.keys()):
        return []
    wide, wide_text = vision["width"] * 3 // 2, text["width"] * 3 // 2
    if wide % vision["head_width"] or wide_text % text["heads"]:
        return []
    return [f"--config.model.vision_cfg.width={wide}", f"--config.model.text_cfg.width={wide_text}"]
