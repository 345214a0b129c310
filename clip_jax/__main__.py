"""`python -m clip_jax COMMAND`, installed as `clip-jax`."""

import difflib
import importlib
import sys

# command -> (module in clip_jax.cli, one line of help)
COMMANDS = {
    "train": "train a model, or go on with a run",
    "evaluate": "measure a run's checkpoint",
    "report": "draw a run as one HTML page",
}


def main() -> None:
    """Runs the command named by the first argument; errors of users end with a line on stderr and exit code 2."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print("usage: clip-jax COMMAND [options]      (clip-jax COMMAND --help tells more)\n")
        print("\n".join(f"  {name:10} {text}" for name, text in COMMANDS.items()))
        sys.exit(0 if arguments else 2)
    command = arguments[0]
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        print(f"clip-jax: no command {command!r}; there are {', '.join(COMMANDS)}.{hint}", file=sys.stderr)
        sys.exit(2)
    module = importlib.import_module(f"clip_jax.cli.{command}")
    try:
        sys.exit(module.main([f"clip-jax {command}", *arguments[1:]]))
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and type(error) is not RuntimeError:
            raise  # not one of ours: the traceback is what helps
        print(f"clip-jax {command}: {error}", file=sys.stderr)
        sys.exit(2 if not isinstance(error, RuntimeError) else 1)


if __name__ == "__main__":
    main()
