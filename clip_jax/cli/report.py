"""clip-jax report: a run folder as one HTML page."""

import shutil
import sys
from pathlib import Path

import jax
from absl import flags

from clip_jax.cli.configs import parse
from clip_jax.report import write_report

USAGE = """usage: clip-jax report WORKDIR

Draws the run in WORKDIR as WORKDIR/report.html, one file that loads nothing else. It may be drawn while the run goes on."""


def main(argv: list[str]) -> int:
    """Exit code 0 once the page is written."""
    folders = parse(flags.FlagValues(), argv, USAGE)
    if len(folders) != 1:
        raise ValueError(f"give one run folder, got {folders or 'none'}; see clip-jax report --help")
    jax.config.update("jax_platforms", "cpu")  # it only counts parameters: leave devices to the run that trains
    print("\n".join(write_report(Path(folders[0]), _command()).lines))
    return 0


def _command() -> str:
    """How the user can call this program again: by its name where the shell finds it, else by this Python."""
    if shutil.which("clip-jax"):
        return "clip-jax"
    python = Path(sys.executable)
    near = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else "python"
    return f"{near} -m clip_jax"
