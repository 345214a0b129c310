"""A student's first weights cut out of a larger teacher: its layers, heads, units and channels. TinyCLIP, Wu et al. 2023,
section 3.2.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from clip_jax import tree
from clip_jax.models.clip import CLIPConfig
from clip_jax.models.cut import Cut, Size, cut_tower, size_of
from clip_jax.models.resnet import ResNetConfig
from clip_jax.models.vit import VisionConfig, resize_positions

# Settings of a tower in which student and teacher must agree, for what was learned to keep its meaning.
_IMAGE = ("patch_size", "pool_type", "norm_eps", "gelu_approximate")
_TEXT = ("vocab_size", "no_causal_mask", "pool_type", "proj_type", "proj_bias", "norm_eps", "gelu_approximate")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TowerChoice:
    """What a student's tower takes from the teacher's: indices there, in the student's order; () for the default.

    on: whether it takes anything. layers: by default 0, r, 2r, ... with r = floor(L_teacher / L_student). channels: of
    the residual stream. heads, units (of the MLPs): one tuple for all layers, or one a layer; an attention pool goes by
    the last. By default the first ones of each.
    """

    on: bool = True
    layers: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()
    heads: tuple[tuple[int, ...], ...] = ()
    units: tuple[tuple[int, ...], ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class InheritConfig:
    """model: the teacher, as clip_jax.load takes it; "" for no inheritance. embedding: which of its embedding's elements
    the student's has, by default the first."""

    model: str = ""
    image: TowerChoice = TowerChoice()
    text: TowerChoice = TowerChoice()
    embedding: tuple[int, ...] = ()


def inherit(
    params: dict[str, Any],
    config: CLIPConfig,
    teacher_params: dict[str, Any],
    teacher_config: CLIPConfig,
    choice: InheritConfig,
) -> dict[str, Any]:
    """The student's `params` with the chosen towers, logit_scale and logit_bias from the teacher, as host arrays f32.

    All others stay, and may be abstract.
    Heads are cut whole where their size K is the teacher's; else each is the best approximation of smaller size (see
    models/heads.py), and a student may have more heads than the teacher. Image positions follow the student's grid, those
    of texts end at its context length. ResNets are copied where equal. Raises ValueError for a student that is
    larger than its teacher, one that means something else by the same weights, and indices that cannot be.
    """
    if not (choice.image.on or choice.text.on):
        raise ValueError("inherit.image.on and inherit.text.on are both off; nothing is inherited, turn one on")
    if differing := _differing(config, teacher_config, choice):
        raise ValueError(
            "the teacher's weights mean something else in this student; set its model as the teacher's:\n  "
            + "\n  ".join(differing)
        )
    _check_fits("embed_dim", config.embed_dim, teacher_config.embed_dim)
    outputs = _indices("inherit.embedding", choice.embedding, config.embed_dim, teacher_config.embed_dim)
    teacher_params = jax.tree.map(np.asarray, teacher_params)
    shared = ("logit_scale", "logit_bias")
    taken: dict[str, Any] = {name: teacher_params[name] for name in shared if name in teacher_params and name in params}
    vision, teacher_vision = config.vision_cfg, teacher_config.vision_cfg
    if choice.image.on and isinstance(vision, VisionConfig) and isinstance(teacher_vision, VisionConfig):
        tied = vision.pool_type == "map"
        cut = _cut("image", choice.image, size_of(vision), size_of(teacher_vision), outputs, tied=tied)
        visual = cut_tower(teacher_params["visual"], cut)
        positions = resize_positions(visual["positional_embedding"], vision.grid, token=not tied)
        taken["visual"] = visual | {"positional_embedding": np.asarray(positions)}
    elif choice.image.on:
        taken["visual"] = _copied(params["visual"], teacher_params["visual"])
    if choice.text.on:
        text, there = config.text_cfg, teacher_config.text_cfg
        _check_fits("text_cfg.context_length", text.context_length, there.context_length)
        tied = text.proj_type == "none"
        found = cut_tower(
            teacher_params["text"], _cut("text", choice.text, size_of(text), size_of(there), outputs, tied=tied)
        )
        taken["text"] = found | {"positional_embedding": found["positional_embedding"][: text.context_length]}
    result = params | taken
    assert not tree.misfits(result, params)
    return result


def _cut(name: str, choice: TowerChoice, student: Size, teacher: Size, outputs: np.ndarray, *, tied: bool) -> Cut:
    """tied: whether the tower's channels are the embedding's elements."""
    for part in ("layers", "width", "hidden", "head"):
        _check_fits(f"{name} {part if part != 'head' else 'head size'}", getattr(student, part), getattr(teacher, part))
    if student.head == teacher.head:
        _check_fits(f"{name} heads", student.heads, teacher.heads)
    where = f"inherit.{name}"
    step = teacher.layers // student.layers
    layers = choice.layers or tuple(i * step for i in range(student.layers))
    embedding = tuple(map(int, outputs))
    channels = choice.channels or (embedding if tied else ())
    if tied and channels != embedding:
        raise ValueError(
            f"{where}.channels differ from inherit.embedding, but this tower's channels are the embedding's elements; give "
            "the same indices to both"
        )
    heads = choice.heads or (
        tuple(h * min(student.heads, teacher.heads) // student.heads for h in range(student.heads)),
    )
    again = teacher.head // student.head if student.head < teacher.head else 1
    return Cut(
        layers=_indices(f"{where}.layers", layers, student.layers, teacher.layers),
        channels=_indices(f"{where}.channels", channels, student.width, teacher.width),
        heads=_rows(f"{where}.heads", heads, student.layers, student.heads, teacher.heads, again=again),
        units=_rows(f"{where}.units", choice.units or ((),), student.layers, student.hidden, teacher.hidden),
        outputs=outputs,
        teacher=teacher,
        student=student,
    )


def _rows(
    where: str, given: Sequence[Sequence[int]], layers: int, count: int, among: int, again: int = 1
) -> np.ndarray:
    if len(given) not in (1, layers):
        raise ValueError(f"{where} has {len(given)} rows; give one for all layers, or one for each of {layers}")
    rows = [_indices(f"{where}[{i}]", row, count, among, again=again) for i, row in enumerate(given)]
    return np.stack(rows * (layers // len(rows)))


def _indices(where: str, given: Sequence[int], count: int, among: int, again: int = 1) -> np.ndarray:
    """i64[count] of numbers below `among`, none more than `again` times; by default the first."""
    if not given:
        given = range(count)
    if len(given) != count:
        raise ValueError(
            f"{where} names {len(given)} of the teacher's; the student has {count}: name {count}, or () for the default"
        )
    if wrong := [index for index in given if not 0 <= index < among]:
        raise ValueError(f"{where} names {wrong[0]}; the teacher's are numbered from 0 to {among - 1}")
    times = np.bincount(given)
    if times.max() > again:
        most = "once" if again == 1 else f"{again} times, as many of the student's heads as fit into one"
        raise ValueError(f"{where} names {times.argmax()} {times.max()} times; name each at most {most}")
    return np.asarray(given)


def _check_fits(what: str, student: int, teacher: int) -> None:
    if student > teacher:
        raise ValueError(
            f"{what} is {student} in the student and {teacher} in the teacher; at most {teacher} can be inherited: make the "
            "student smaller, or take a larger teacher"
        )


def _copied(student: Any, teacher: Any) -> Any:
    if wrong := tree.misfits(teacher, student):
        raise ValueError(
            "an image tower that is a ResNet is inherited whole or not at all, and these differ; set vision_cfg as the "
            "teacher's, or inherit.image.on=False:\n  " + "\n  ".join(wrong[:10])
        )
    return teacher


def _differing(config: CLIPConfig, teacher: CLIPConfig, choice: InheritConfig) -> list[str]:
    def compared(where: str, here: Any, there: Any, names: Sequence[str]) -> list[str]:
        pairs = [(name, getattr(here, name), getattr(there, name)) for name in names]
        return [f"{where}{name}: {new} here, {old} there" for name, new, old in pairs if new != old]

    found: list[str] = []
    vision, teacher_vision = config.vision_cfg, teacher.vision_cfg
    if choice.image.on:
        found += compared("", config, teacher, ("preprocess_cfg",))
        if type(vision) is not type(teacher_vision):
            found.append(f"vision_cfg: a {type(vision).__name__} here, a {type(teacher_vision).__name__} there")
        elif isinstance(vision, VisionConfig):
            found += compared("vision_cfg.", vision, teacher_vision, _IMAGE)
    if choice.text.on:
        text, there = config.text_cfg, teacher.text_cfg
        names = [*_TEXT, *(["pad_id"] if text.no_causal_mask else []), *(["eos_id"] if text.pool_type == "eos" else [])]
        found += compared("text_cfg.", text, there, names)
    if choice.text.on or not isinstance(vision, ResNetConfig):
        found += compared("", config, teacher, ("quick_gelu",))
    return found
