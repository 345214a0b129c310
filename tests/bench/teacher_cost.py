"""What a teacher costs a training, stored and live, against none: `make bench-teacher`; --write puts it into the docs.

Writes runs/bench/teacher_cost.json. Each measurement runs in a process of its own; what is not enough for a target is
said, and nothing is asserted.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.teacher_cost_text import lines, replaced

_DOCS = Path("docs/distillation.md")
# What embeddings as teachers are to save: a stored teacher's step over plain training's; a live one's over a stored one's.
STORED_TIME, LIVE_TIME, LIVE_SIZE = 1.05, 8.0, 9.0


def main() -> None:
    """Measures, prints, writes."""
    console, found = Console(), {}
    with tempfile.TemporaryDirectory(prefix="teacher_cost_") as folder, console.status("") as status:
        for name, arguments in {
            "about": ("prepare",),
            "times": ("times",),
            **{f"memory_{mode}": ("memory", mode) for mode in ("plain", "stored", "live")},
            "reads": ("reads",),
        }.items():
            status.update(f"measuring: {' '.join(arguments)}")
            found[name] = _measured(Path(folder), *arguments)
    figures = summary(found)
    path = Path("runs/bench/teacher_cost.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"figures": figures} | found, indent=1))
    view = Table(box=None, title=f"{figures['title']}", title_justify="left", pad_edge=False)
    header, *rows = lines(figures)
    for column in header:
        view.add_column(column)
    for row in rows:
        view.add_row(*row)
    console.print(view)
    if "--write" in sys.argv[1:]:
        _DOCS.write_text(replaced(_DOCS.read_text() if _DOCS.exists() else "", figures))


def _measured(folder: Path, what: str, *rest: str) -> dict[str, Any]:
    """Raises RuntimeError with what the process said last."""
    command = [sys.executable, "-m", "tests.bench.teacher_cost_measure", what, str(folder), *rest]
    kept = {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    done = subprocess.run(command, env=os.environ | kept, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """The figures of the table: medians over steps, ratios of medians over pairs of neighbours, megabytes."""
    about, times = found["about"], found["times"]
    steps: dict[str, list[dict[str, float]]] = times["steps"]
    memory = {mode: found[f"memory_{mode}"] for mode in steps}

    def median(mode: str, what: str) -> float:
        return statistics.median(step[what] for step in steps[mode])

    def ratios(what: str) -> list[float]:
        pairs = zip(steps["stored"], steps["plain"], strict=True)
        return [stored[what] / plain[what] for stored, plain in pairs]

    each = times["pairs_a_round"]
    of_round = [steps["stored"][start : start + each] for start in range(0, len(steps["stored"]), each)]

    def live(what: str) -> float:
        around = [statistics.median(step[what] for step in stored) for stored in of_round]
        return statistics.median(one[what] / base for one, base in zip(steps["live"], around, strict=True))

    on_device = memory["plain"]["device"] is not None
    peak = {mode: memory[mode]["device" if on_device else "process"] / 1e6 for mode in steps}
    compiled = {mode: _held(memory[mode]) / 1e6 for mode in steps}
    stored_time, spread = statistics.median(ratios("seconds")), statistics.quantiles(ratios("seconds"), n=4)
    return {
        "title": f"ViT-L-14 teaches ViT-T-16, {about['batch']} pairs a step, {about['dtype']}, {about['device']}",
        "about": about,
        "load": times["load"],
        "steps": {mode: len(taken) for mode, taken in steps.items()},
        "seconds": {mode: median(mode, "seconds") for mode in steps},
        "cpu": {mode: median(mode, "cpu") for mode in steps},
        "waiting": {mode: sum(s["waiting"] for s in t) / sum(s["seconds"] for s in t) for mode, t in steps.items()},
        "filling_ms": {mode: 1e3 * median(mode, "filling") for mode in steps},
        "stored_time": stored_time,
        "stored_time_quartiles": [spread[0], spread[2]],
        "stored_cpu": statistics.median(ratios("cpu")),
        "live_time": live("seconds"),
        "live_cpu": live("cpu"),
        "multiply_adds": 1 + about["teacher_gmacs"] / about["student_gmacs"],
        "on_device": on_device,
        "peak": peak,
        "life": {mode: memory[mode]["life"] / 1e6 for mode in steps},
        "compiled": compiled,
        "targets_kb": memory["stored"]["targets"] / 1e3,
        "heads_mb": (memory["stored"]["state"] - memory["plain"]["state"]) / 1e6,
        # With no activations at all: weights, two moments and a gradient of the student, and the teacher's weights.
        "most_size": 1 + memory["live"]["teacher"]["arguments"] / (memory["stored"]["state"] * 4 / 3),
        "state_mb": memory["plain"]["state"] / 1e6,
        "weights_mb": memory["live"]["teacher"]["arguments"] / 1e6,
        "whole_size": peak["live"] / peak["stored"],
        "whole_compiled": compiled["live"] / compiled["stored"],
        "added_size": (peak["live"] - peak["plain"]) / max(peak["stored"] - peak["plain"], 1e-3),
        "added_compiled": (compiled["live"] - compiled["plain"]) / (compiled["stored"] - compiled["plain"]),
        "reads": found["reads"],
        "targets": {"stored_time": STORED_TIME, "live_time": LIVE_TIME, "live_size": LIVE_SIZE},
    }


def _held(memory: dict[str, Any]) -> int:
    """Bytes that the compiled programs need at once: the step's; or the teacher's, while the student's state is there."""
    step = sum(memory["step"].values())
    if "teacher" not in memory:
        return step
    teacher = memory["teacher"]
    return max(step + teacher["arguments"], memory["state"] + sum(teacher.values()))


if __name__ == "__main__":
    main()
