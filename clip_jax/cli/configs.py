"""The border to ml_collections: config files hold ConfigDicts, the library takes frozen dataclasses."""

import inspect
import re
import runpy
import sys
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from clip_jax.experiment import TrainConfig
from clip_jax.plain import from_dict, to_dict
from clip_jax.typed import near


def to_config_dict(config: Any) -> ConfigDict:
    """A dataclass as a ConfigDict to edit; lists become tuples, `kind` says which dataclass where there is a choice."""
    return ConfigDict(_tuples(to_dict(config)))


def to_dataclass(config: ConfigDict) -> TrainConfig:
    """The experiment a ConfigDict describes. Raises ValueError for unknown keys and wrong types."""
    return from_dict(TrainConfig, config.to_dict())


def load_config(reference: str) -> ConfigDict:
    """What `get_config` of FILE.py returns, for "FILE.py" or "FILE.py:argument". The folder above the file's becomes
    importable, so that one config can build on another.

    Raises FileNotFoundError, or ValueError for a file without get_config or with one that takes no argument.
    """
    name, _, argument = reference.partition(":")
    file = Path(name)
    if not file.is_file():
        there = sorted(path.stem for path in file.parent.glob("[!_]*.py")) if file.parent.is_dir() else []
        raise FileNotFoundError(
            f"no config {name}{near(file.stem, there)}; {file.parent} has {', '.join(there) or 'none'}"
        )
    sys.path.insert(0, str(file.resolve().parent.parent))
    module = runpy.run_path(str(file))
    if "get_config" not in module:
        raise ValueError(f"{name} has no function get_config")
    arguments = [argument] if argument else []
    try:
        inspect.signature(module["get_config"]).bind(*arguments)
    except TypeError as error:
        raise ValueError(f"{reference}: get_config of {name} takes other arguments ({error})") from error
    return module["get_config"](*arguments)


def take_config(values: flags.FlagValues, argv: list[str]) -> tuple[list[str], ConfigDict | None]:
    """Loads the config that --config names and defines a flag --config.a.b for each of its fields.

    Returns the arguments without --config, and the config, which parsing the rest changes in place; None without one.
    """
    rest, references = [], []
    arguments = iter(argv)
    for argument in arguments:
        if argument in ("--config", "-config"):
            references.append(next(arguments, ""))
        elif argument.startswith("--config="):
            references.append(argument.removeprefix("--config="))
        else:
            rest.append(argument)
    if len(references) > 1:
        raise ValueError(f"--config is given {len(references)} times: {references}; give one")
    if not references:
        return rest, None
    config = load_config(references[0])
    config.lock()
    config.origin = references[0]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=rest)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{references[0]}: {_said(error)}") from error
    return rest, config


def parse(values: flags.FlagValues, argv: list[str], usage: str) -> list[str]:
    """Parses flags; what is left are positional arguments. --help prints `usage` and the flags, and exits.

    Raises ValueError for unknown flags, config files that cannot be read, and config keys that do not exist.
    """
    if any(argument in ("-h", "--help", "-help") for argument in argv[1:]):
        print(usage + "\n")
        print("\n".join(f"  --{name:12} {values[name].help}" for name in values if "." not in name))
        sys.exit(0)
    try:
        return values(argv)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError) as error:
        raise ValueError(_said(error)) from error


def _said(error: Exception) -> str:
    """In one line; of a key that does not exist, ml_collections says `KeyError("'lrr'\\nDid you mean "lr" ...")`."""
    inner = error.args[0] if error.args else error
    said = str(inner.args[0] if isinstance(inner, KeyError) and inner.args else inner)
    if key := re.fullmatch(r"""'(.+)'(?:\nDid you mean "(.+?)" .*)?""", said):
        return f"no key {key[1]!r}" + (f"; did you mean {key[2]!r}?" if key[2] else "")
    return " ".join(said.split())


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(entry) for key, entry in value.items()}
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value
