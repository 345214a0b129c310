"""Classes as prompts: what stands for a class name in the shared space. Radford et al. 2021, section 3.1.4."""

import re
from collections.abc import Callable, Sequence

import numpy as np

TEMPLATES = ("a photo of a {}.",)

_FOLDER = re.compile(r"^/[a-z]/")  # of SUN397, which names a class by where its images lie


def check_templates(templates: Sequence[str]) -> None:
    """Raises ValueError unless there is a template, and each has a place for the name."""
    if not templates or any("{}" not in template for template in templates):
        raise ValueError(f"templates {templates}: give at least one, each with {{}} where the class name goes")


def readable(name: str) -> str:
    """ "/b/balcony/interior" -> "interior balcony"; other names as they are, without underscores."""
    name = name.replace("_", " ")
    return " ".join(reversed(_FOLDER.sub("", name).split("/"))) if _FOLDER.match(name) else name


def class_embeddings(
    embed: Callable[[list[str]], np.ndarray], classes: Sequence[str], templates: Sequence[str]
) -> np.ndarray:
    """Per class the mean of its prompts' unit embeddings, renormalised: f32[N, E]. embed: texts to unit-norm f32[., E]."""
    prompts = [template.replace("{}", name) for name in classes for template in templates]
    mean = embed(prompts).reshape(len(classes), len(templates), -1).mean(axis=1)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)
