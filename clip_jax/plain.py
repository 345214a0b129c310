"""Dataclasses from plain dicts and back: what config files and config.json hold, checked key by key."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from clip_jax import teachers
from clip_jax.data import sources
from clip_jax.evals import suite
from clip_jax.models import clip
from clip_jax.typed import Reader

_READER = Reader(
    kinds={**sources.KINDS, **suite.KINDS, **clip.KINDS, **teachers.KINDS},
    implied="vit",  # run folders of before there was a choice do not say it
)


def to_dict(config: Any) -> Any:
    """A dataclass as plain dicts and lists, fit for JSON; `kind` says which dataclass where there is a choice."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        names = _READER.names
        kind = {"kind": names[type(config)]} if type(config) in names else {}
        return kind | {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {key: to_dict(value) for key, value in config.items()}
    if isinstance(config, (tuple, list)):
        return [to_dict(value) for value in config]
    return config


def from_dict(cls: Any, given: Mapping[str, Any], where: str = "config") -> Any:
    """The dataclass `cls` from plain dicts; absent fields take the dataclass's default.

    Raises ValueError that names the key, what was given and what is allowed, for an unknown key or a wrong type.
    """
    return _READER.read(cls, given, where)


def from_json(cls: Any, text: str, where: str) -> Any:
    """The same from JSON."""
    try:
        return from_dict(cls, json.loads(text), where)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
