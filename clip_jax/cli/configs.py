"""The border to ml_collections: config files hold ConfigDicts, the library takes frozen dataclasses."""

import sys
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from clip_jax.experiment import TrainConfig
from clip_jax.plain import from_dict, to_dict


def to_config_dict(config: Any) -> ConfigDict:
    """A dataclass as a ConfigDict to edit; lists become tuples, `kind` says which dataclass where there is a choice."""
    return ConfigDict(_tuples(to_dict(config)))


def to_dataclass(config: ConfigDict) -> TrainConfig:
    """The experiment a ConfigDict describes. Raises ValueError for unknown keys and wrong types."""
    return from_dict(TrainConfig, config.to_dict())


def define_config_flag(values: flags.FlagValues, argv: list[str]) -> flags.FlagHolder:
    """--config FILE.py[:argument] and --config.a.b=c. The folder above the file's is importable, so that one config
    can build on another."""
    for argument in argv[1:]:
        name = argument.removeprefix("--config=") if argument.startswith("--config=") else argument
        file = Path(name.split(".py")[0] + ".py")
        if ".py" in name and file.is_file():
            sys.path.insert(0, str(file.resolve().parent.parent))
    return config_flags.DEFINE_config_file(
        "config",
        None,
        "configs/X.py or configs/X.py:argument; --config.a.b=c changes a field",
        flag_values=values,
        lock_config=True,
        sys_argv=argv,
    )


def parse(values: flags.FlagValues, argv: list[str], usage: str) -> list[str]:
    """Parses flags; what is left are positional arguments. --help prints `usage` and the flags, and exits.

    Raises ValueError for unknown flags, config files that cannot be read, and config keys that do not exist.
    """
    if any(argument in ("-h", "--help", "-help") for argument in argv[1:]):
        print(usage + "\n")
        print("\n".join(f"  --{name:12} {values[name].help}" for name in values))
        sys.exit(0)
    try:
        return values(argv)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError) as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise ValueError(str(message)) from error


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(entry) for key, entry in value.items()}
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value
