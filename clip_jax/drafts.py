"""A folder that gets its name only once what is in it has been proven."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from clip_jax.interop.proof.gate import NotProven


def check_destination(destination: Path) -> None:
    """Raises ValueError where something is there already: nothing is ever overwritten; and for a folder without a name."""
    if destination.name in ("", ".."):
        raise ValueError(f"{destination} is no name of a new folder; give one")
    draft = _draft(destination)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ValueError(f"{destination} is there already; give a folder that does not exist yet, or an empty one")
    if draft.exists():
        raise ValueError(f"{draft} is there, a result of an earlier attempt that was not proven; look at it, delete it")


@contextlib.contextmanager
def drafted(destination: Path) -> Iterator[Path]:
    """A context whose value is the folder DESTINATION.unproven, this process's alone, which becomes `destination` at its end.

    Where NotProven is raised within, the folder stays and the error says so; at any other error it is removed. Raises
    ValueError as check_destination does, and where the folder cannot be made.
    """
    check_destination(destination)
    draft = _draft(destination)
    try:
        draft.mkdir(parents=True)
    except OSError as error:
        raise ValueError(f"{draft} cannot be written: {error.strerror or error}") from error
    try:
        yield draft
        if destination.exists():
            destination.rmdir()
        draft.rename(destination)
    except NotProven as error:
        raise NotProven(f"{error}\nThe files are left in {draft}") from error
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _draft(destination: Path) -> Path:
    return destination.with_name(destination.name + ".unproven")
