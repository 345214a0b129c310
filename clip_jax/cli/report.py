"""clip-jax report: a run folder as one HTML page, several side by side on one, evaluations of any models, or exports."""

import shutil
import sys
from pathlib import Path

import jax
from absl import flags

from clip_jax.cli.configs import parse
from clip_jax.export.record import RECORD
from clip_jax.report import write_report
from clip_jax.report.beside import write_beside
from clip_jax.report.evaluations import write_evaluations
from clip_jax.report.exports import write_exports
from clip_jax.run_folder import CONFIG, EVALUATION

USAGE = """usage: clip-jax report WORKDIR [MORE ...] [--out FILE]

Draws the run in WORKDIR as WORKDIR/report.html, one file that loads nothing else. It may be drawn while the run goes on.
Several runs are drawn side by side as WORKDIR/beside.html: give the teacher first, then its students. Folders that clip-jax
export or clip-jax evaluate has written are drawn, too."""


def main(argv: list[str]) -> int:
    """Exit code 0 once the page is written."""
    values = flags.FlagValues()
    out = flags.DEFINE_string("out", None, "the page's file, in place of the one in WORKDIR", flag_values=values)
    folders = [Path(folder) for folder in parse(values, argv, USAGE)]
    if not folders:
        raise ValueError("give a run folder, or several to see them side by side; see clip-jax report --help")
    file = Path(out.value) if out.value else None
    if file and not file.parent.is_dir():
        raise ValueError(f"--out {file}: there is no folder {file.parent}; make it first")
    jax.config.update("jax_platforms", "cpu")  # it only counts parameters: leave devices to the run that trains
    evaluated = [folder for folder in folders if (folder / EVALUATION).is_file() and not (folder / CONFIG).is_file()]
    if evaluated:
        report = write_evaluations(folders, file)
    elif folders[1:]:
        report = write_beside(folders, _command(), file)
    elif (folders[0] / RECORD).is_file():
        report = write_exports(folders[0], file)
    else:
        report = write_report(folders[0], _command(), file)
    print("\n".join(report.lines))
    return 0


def _command() -> str:
    """How the user can call this program again: by its name where the shell finds it, else by this Python."""
    if shutil.which("clip-jax"):
        return "clip-jax"
    python = Path(sys.executable)
    near = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else "python"
    return f"{near} -m clip_jax"
