"""Prints the newest other Python (3.12 or later) on this machine, or nothing: `make test-all` runs once more on it."""

import glob
import os
import shutil
import subprocess
import sys


def version(python: str) -> tuple[int, ...]:
    """(major, minor) of an interpreter with venv and pip; () for what is none."""
    code = "import sys, venv, ensurepip; print(*sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=30)
    except OSError:
        return ()
    return tuple(map(int, done.stdout.split())) if done.returncode == 0 else ()


def main() -> None:
    """Looks on the PATH and among pyenv's versions."""
    minors = range(12, 20)
    candidates = [path for minor in minors if (path := shutil.which(f"python3.{minor}"))]
    root = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    candidates += glob.glob(f"{root}/versions/3.*/bin/python3")
    found = max(((version(python), python) for python in candidates), default=((), ""))
    if found[0] > sys.version_info[:2]:
        print(found[1])


if __name__ == "__main__":
    main()
