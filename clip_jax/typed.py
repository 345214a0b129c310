"""Dataclasses from plain dicts, checked against their annotations key by key."""

import dataclasses
import difflib
import functools
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reader:
    """kinds: dataclasses by the key `kind`, with which a field that may hold one of several says which. implied: the kind
    that need not be said. whole: whether all fields must be given, those with a default, too."""

    kinds: Mapping[str, type] = dataclasses.field(default_factory=dict)
    implied: str = ""
    whole: bool = False

    @functools.cached_property
    def names(self) -> Mapping[type, str]:
        """The kind of each dataclass that has one."""
        return {cls: kind for kind, cls in self.kinds.items()}

    def read(self, wanted: Any, given: Any, where: str) -> Any:
        """`given` as the type `wanted`, which annotates a field or is a dataclass; lists become tuples.

        Raises ValueError that begins with `where`, and names the key, what was given and what is allowed, for an unknown or
        missing key or a wrong type; and whatever a dataclass itself raises.
        """
        origin, args = get_origin(wanted), get_args(wanted)
        if wanted is Any:
            return given
        if origin is Literal:
            if given not in args:
                raise ValueError(f"{where} is {given!r}; allowed are {', '.join(map(repr, args))}{near(given, args)}")
            return given
        if origin in (Union, types.UnionType):
            return self._union(args, given, where)
        if origin is tuple:
            return self._tuple(args, given, where)
        if origin is not None and issubclass(origin, Mapping):
            if not isinstance(given, Mapping):
                raise ValueError(f"{where} is {given!r}; expected names with values")
            return {key: self.read(args[1], entry, f"{where}.{key}") for key, entry in given.items()}
        if dataclasses.is_dataclass(wanted):
            return self._dataclass(wanted, given, where)
        if wanted is float and isinstance(given, int) and not isinstance(given, bool):
            return float(given)
        if not isinstance(given, wanted) or (isinstance(given, bool) and wanted is not bool):
            raise ValueError(f"{where} is {given!r}, a {type(given).__name__}; expected {wanted.__name__}")
        return given

    def _union(self, args: tuple[Any, ...], given: Any, where: str) -> Any:
        if given is None and type(None) in args:
            return None
        rest = [arg for arg in args if arg is not type(None)]
        if len(rest) == 1:
            return self.read(rest[0], given, where)
        kinds = {self.names[arg]: arg for arg in rest if arg in self.names}
        if not kinds:
            for arg in rest:
                try:
                    return self.read(arg, given, where)
                except ValueError:
                    continue
            raise ValueError(
                f"{where} is {given!r}; expected one of {[getattr(arg, '__name__', str(arg)) for arg in rest]}"
            )
        kind = (
            given.get("kind", self.implied if self.implied in kinds else None) if isinstance(given, Mapping) else given
        )
        if not isinstance(given, Mapping) or kind not in kinds:
            raise ValueError(f"{where}.kind is {kind!r}; there are {', '.join(sorted(kinds))}{near(kind, kinds)}")
        return self._dataclass(kinds[kind], given, where)

    def _tuple(self, args: tuple[Any, ...], given: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(given, (tuple, list)):
            raise ValueError(f"{where} is {given!r}; expected a tuple")
        if args[-1] is Ellipsis:
            return tuple(self.read(args[0], entry, f"{where}[{i}]") for i, entry in enumerate(given))
        if len(given) != len(args):
            raise ValueError(f"{where} is {given!r}; expected {len(args)} values")
        return tuple(
            self.read(arg, entry, f"{where}[{i}]") for i, (arg, entry) in enumerate(zip(args, given, strict=True))
        )

    def _dataclass(self, cls: Any, given: Any, where: str) -> Any:
        if not isinstance(given, Mapping):
            raise ValueError(f"{where} is {given!r}; expected the fields of {cls.__name__}")
        if cls in self.names and given.get("kind", self.names[cls]) != self.names[cls]:
            raise ValueError(f"{where}.kind is {given['kind']!r}; only {self.names[cls]!r} is allowed here")
        fields = {field.name for field in dataclasses.fields(cls)}
        hints = get_type_hints(cls)
        values = {key: value for key, value in given.items() if not (key == "kind" and cls in self.names)}
        if unknown := sorted(set(values) - fields):
            raise ValueError(
                f"{where} has no {unknown[0]!r}{near(unknown[0], fields)}; there are {', '.join(sorted(fields))}"
            )
        wanted = [field.name for field in dataclasses.fields(cls) if self.whole or _required(field)]
        if missing := [name for name in wanted if name not in values]:
            raise ValueError(f"{where} needs {', '.join(map(repr, missing))}")
        return cls(**{key: self.read(hints[key], value, f"{where}.{key}") for key, value in values.items()})


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def near(given: Any, choices: Any) -> str:
    """ " (did you mean 'x'?)" with the choice most like `given`, or "" where none is."""
    found = difflib.get_close_matches(str(given), [str(choice) for choice in choices], n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""
