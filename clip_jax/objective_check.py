"""What of an objective cannot be computed, or would teach nothing, said before training."""

import math
from collections.abc import Mapping
from typing import get_args

from clip_jax.losses.collect import Form
from clip_jax.objectives import ObjectiveConfig, Ramp, serving
from clip_jax.teachers import Offer, TeacherConfig
from clip_jax.terms import TERMS, Term, TermOptions


def check_objective(
    config: ObjectiveConfig,
    *,
    has_bias: bool,
    teachers: Mapping[str, TeacherConfig] | None = None,
    offers: Mapping[str, Offer] | None = None,
    embed_dim: int = 0,
    can_mask: bool = True,
    steps: int | None = None,
) -> None:
    """Raises ValueError for what cannot be computed: unknown terms, weights that sum to zero, a term without a teacher, or
    against one that does not give what it needs.

    has_bias: whether the model has a logit_bias. embed_dim: of the student. can_mask: whether its image tower has patches.
    steps: of the run; None for one without an end.
    """
    teachers, offers = teachers or {}, offers or {}
    if unknown := sorted(set(config.weights) - set(TERMS)):
        raise ValueError(f"objective.weights {unknown}: no such loss; there are {sorted(TERMS)}")
    for name, weight in config.weights.items():
        _check_weight(name, weight, sum(teachers[teacher].weight for teacher in serving(name, teachers)))
        if isinstance(weight, Ramp) and steps is not None and weight.first >= steps:
            raise ValueError(
                f"objective.weights.{name} moves from step {weight.first} on, and the run ends at step {steps}; let it begin "
                f"before, or give the number {weight.start:g}"
            )
    if not any(max(_ends(weight)) > 0 for weight in config.weights.values()):
        raise ValueError(f"objective.weights {dict(config.weights)} sum to zero; nothing would be learned")
    if config.form not in get_args(Form):
        raise ValueError(f"objective.form is {config.form!r}; it must be one of {get_args(Form)}")
    if config.chunk < 1:
        raise ValueError(f"objective.chunk is {config.chunk}; it must be at least 1 column of logits")
    if config.form != "gathered" and config.needs("gathered"):
        whole = [name for name, term in config.used.items() if "gathered" in term.needs]
        raise ValueError(f"objective {whole} holds all logits at once; set objective.form='gathered', or leave it out")
    if config.weights.get("sigmoid") and not has_bias:
        raise ValueError(
            "objective 'sigmoid' needs a model with logit_bias: most pairs do not match, and without it the first steps "
            "only unlearn that they do; set model.init_logit_bias=-10 and model.init_logit_scale=2.302585 (ln 10)"
        )
    for name, teacher in teachers.items():
        if unknown := sorted(set(teacher.losses) - set(config.weights)):
            raise ValueError(f"teachers.{name}.losses {unknown}: not in objective.weights {sorted(config.weights)}")
    for name, term in config.used.items():
        if "bias" in term.needs and not has_bias:
            raise ValueError(f"objective {name!r} needs a student with logit_bias; set model.init_logit_bias=-10")
        if "clamp" in term.needs and has_bias:
            raise ValueError(
                f"objective {name!r} has no lowest value without a bounded logit_scale; use a model without bias"
            )
        if "masked" in term.needs and not can_mask:
            raise ValueError(
                f"objective {name!r} hides patches of the image; the student's image tower has none: use a ViT"
            )
        if term.of == "student":
            continue
        served = serving(name, teachers)
        if not served:
            raise ValueError(
                f"objective {name!r} compares with a teacher, and none serves it; name one in config.teachers"
            )
        for teacher in served:
            _check_against(name, term, teacher, offers[teacher], config.options, embed_dim)
    for name in teachers:
        if not any(name in serving(loss, teachers) for loss, term in config.used.items() if term.of != "student"):
            raise ValueError(
                f"teachers.{name} serves no term of objective.weights {dict(config.weights)}; add one, such as crd=1.0, or "
                "leave the teacher out"
            )


def _ends(weight: float | Ramp) -> tuple[float, float]:
    return (weight.start, weight.end) if isinstance(weight, Ramp) else (weight, weight)


def _check_weight(name: str, weight: float | Ramp, teachers: float) -> None:
    """teachers: the sum of the weights of those that serve the term, by which its own is multiplied."""
    if not all(math.isfinite(end) for end in _ends(weight)):
        raise ValueError(f"objective.weights.{name} is {weight}; give finite numbers")
    lowest = min(_ends(weight))
    if name != "dark_rest" and lowest < 0:
        raise ValueError(f"objective.weights.{name} falls to {lowest}; below 0 the loss has no lowest value")
    if name == "dark_rest" and lowest * max(teachers, 1) < -1:
        times = f", times {teachers:g} for its teachers" if teachers > 1 else ""
        raise ValueError(f"objective.weights.{name} falls to {lowest}{times}; below -1 the loss has no lowest value")


def _check_against(name: str, term: Term, teacher: str, offer: Offer, options: TermOptions, embed_dim: int) -> None:
    given = {"text": offer.text, "synthetic": offer.synthetic, "centroids": offer.classes > 0, "bias": offer.has_bias}
    lacks = [what for what in term.needs if not given.get(what, True)]
    if lacks:
        how = {
            "text": "embeddings of captions (embed again with --captions, or use image_l1, image_mse, image_cosine)",
            "synthetic": "embeddings of generated captions (use a source that has them, and embed again)",
            "centroids": "class centroids (use a store, of a source with classes)",
            "bias": "a logit_bias, without which it says yes to every pair (use crd or affinity)",
        }[lacks[0]]
        raise ValueError(f"objective {name!r} needs what teacher {teacher!r} does not give: {how}")
    projected = "projection" in term.needs or (name == "centroid" and options.centroid_side == "student")
    if projected and options.projection == "none" and offer.embed_dim != embed_dim:
        raise ValueError(
            f"objective {name!r} compares embeddings of {embed_dim} numbers with {offer.embed_dim} of teacher {teacher!r}; "
            "set objective.options.projection='linear', or use crd, affinity or reinforcement, which compare similarities"
        )
