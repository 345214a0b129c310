"""`python -m clip_jax COMMAND`, installed as `clip-jax`."""

import difflib
import dis
import importlib
import sys
from pathlib import Path

# command -> (module in clip_jax.cli, one line of help)
COMMANDS = {
    "train": "train a model, or go on with a run",
    "plan": "whether a config fits a pod, and how fast it would run there",
    "evaluate": "measure a run's checkpoint",
    "report": "draw a run as one HTML page",
    "shrink": "the student that a run under masks has chosen",
    "embed": "store a teacher's embeddings for distillation",
    "convert": "weights from any layout to any other, proven by numbers",
    "publish": "a model with its card, for others to load, or onto the Hugging Face Hub",
    "export": "a model for phones, browsers and servers, measured file by file",
    "search": "an index of a folder of pictures, and a page to search in it",
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
    except (ValueError, FileNotFoundError, ModuleNotFoundError, RuntimeError) as error:
        if not _is_ours(error):
            raise
        print(f"clip-jax {command}: {error}", file=sys.stderr)
        sys.exit(1 if isinstance(error, RuntimeError) else 2)


def _is_ours(error: BaseException) -> bool:
    """Whether a `raise` of this package raised it, with a message for users; else the traceback is what helps.

    Functions in C have no frame: what they raise seems to come from the line that called them, which is no `raise`.
    """
    last = error.__traceback__
    while last and last.tb_next:
        last = last.tb_next
    if last is None:
        return False
    code = last.tb_frame.f_code
    inside = Path(code.co_filename).is_relative_to(Path(__file__).parent)
    return inside and code.co_code[last.tb_lasti] == dis.opmap["RAISE_VARARGS"]


if __name__ == "__main__":
    main()
