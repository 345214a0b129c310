"""Dataclasses from plain dicts and back: what config files and config.json hold, checked key by key."""

import dataclasses
import difflib
import json
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from clip_jax import teachers
from clip_jax.data import sources
from clip_jax.evals import suite
from clip_jax.models import clip

# A field that may hold one of several dataclasses says which by a key `kind`.
_KINDS: dict[str, type] = {**sources.KINDS, **suite.KINDS, **clip.KINDS, **teachers.KINDS}
_IMPLIED = "vit"  # may be left out: run folders of before there was a choice do not say it
_NAMES = {cls: kind for kind, cls in _KINDS.items()}


def to_dict(config: Any) -> Any:
    """A dataclass as plain dicts and lists, fit for JSON; `kind` says which dataclass where there is a choice."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        kind = {"kind": _NAMES[type(config)]} if type(config) in _NAMES else {}
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
    return _value(cls, given, where)


def from_json(cls: Any, text: str, where: str) -> Any:
    """The same from JSON."""
    try:
        return from_dict(cls, json.loads(text), where)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error


def _value(wanted: Any, given: Any, where: str) -> Any:
    origin, args = get_origin(wanted), get_args(wanted)
    if wanted is Any:
        return given
    if origin is Literal:
        if given not in args:
            raise ValueError(f"{where} is {given!r}; allowed are {', '.join(map(repr, args))}{near(given, args)}")
        return given
    if origin in (Union, types.UnionType):
        return _union(args, given, where)
    if origin is tuple:
        return _tuple(args, given, where)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(given, Mapping):
            raise ValueError(f"{where} is {given!r}; expected names with values")
        return {key: _value(args[1], entry, f"{where}.{key}") for key, entry in given.items()}
    if dataclasses.is_dataclass(wanted):
        return _dataclass(wanted, given, where)
    if wanted is float and isinstance(given, int) and not isinstance(given, bool):
        return float(given)
    if not isinstance(given, wanted) or (isinstance(given, bool) and wanted is not bool):
        raise ValueError(f"{where} is {given!r}, a {type(given).__name__}; expected {wanted.__name__}")
    return given


def _union(args: tuple[Any, ...], given: Any, where: str) -> Any:
    if given is None and type(None) in args:
        return None
    rest = [arg for arg in args if arg is not type(None)]
    if len(rest) == 1:
        return _value(rest[0], given, where)
    kinds = {_NAMES[arg]: arg for arg in rest if arg in _NAMES}
    if not kinds:
        for arg in rest:
            try:
                return _value(arg, given, where)
            except ValueError:
                continue
        raise ValueError(
            f"{where} is {given!r}; expected one of {[getattr(arg, '__name__', str(arg)) for arg in rest]}"
        )
    kind = given.get("kind", _IMPLIED if _IMPLIED in kinds else None) if isinstance(given, Mapping) else given
    if not isinstance(given, Mapping) or kind not in kinds:
        raise ValueError(f"{where}.kind is {kind!r}; there are {', '.join(sorted(kinds))}{near(kind, kinds)}")
    return _dataclass(kinds[kind], given, where)


def _tuple(args: tuple[Any, ...], given: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(given, (tuple, list)):
        raise ValueError(f"{where} is {given!r}; expected a tuple")
    if args[-1] is Ellipsis:
        return tuple(_value(args[0], entry, f"{where}[{i}]") for i, entry in enumerate(given))
    if len(given) != len(args):
        raise ValueError(f"{where} is {given!r}; expected {len(args)} values")
    return tuple(_value(arg, entry, f"{where}[{i}]") for i, (arg, entry) in enumerate(zip(args, given, strict=True)))


def _dataclass(cls: Any, given: Any, where: str) -> Any:
    if not isinstance(given, Mapping):
        raise ValueError(f"{where} is {given!r}; expected the fields of {cls.__name__}")
    if cls in _NAMES and given.get("kind", _NAMES[cls]) != _NAMES[cls]:
        raise ValueError(f"{where}.kind is {given['kind']!r}; only {_NAMES[cls]!r} is allowed here")
    fields = {field.name for field in dataclasses.fields(cls)}
    hints = get_type_hints(cls)
    values = {key: value for key, value in given.items() if not (key == "kind" and cls in _NAMES)}
    if unknown := sorted(set(values) - fields):
        raise ValueError(
            f"{where} has no {unknown[0]!r}{near(unknown[0], fields)}; there are {', '.join(sorted(fields))}"
        )
    if missing := [field.name for field in dataclasses.fields(cls) if _required(field) and field.name not in values]:
        raise ValueError(f"{where} needs {', '.join(map(repr, missing))}")
    return cls(**{key: _value(hints[key], value, f"{where}.{key}") for key, value in values.items()})


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def near(given: Any, choices: Any) -> str:
    """ " (did you mean 'x'?)" with the choice most like `given`, or "" where none is."""
    found = difflib.get_close_matches(str(given), [str(choice) for choice in choices], n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""
