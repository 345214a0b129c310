"""Runs every benchmark, prints the table, writes runs/bench/bench.json."""

import dataclasses
import importlib
import json
import platform
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

QUESTIONS = ("tokenizer", "loader", "step")


def main() -> None:
    """A row as soon as it is known."""
    console, rows = Console(), []
    about = {"jax": jax.__version__, "python": platform.python_version(), "device": jax.devices()[0].device_kind}
    for question in QUESTIONS:
        with console.status(f"measuring {question}"):
            rows += importlib.import_module(f"tests.bench.{question}").rows()
    view = Table(title=", ".join(f"{key} {value}" for key, value in about.items()), box=None)
    for column in ("question", "value", "unit", "spread"):
        view.add_column(column, justify="right" if column in ("value", "spread") else "left")
    for row in rows:
        view.add_row(row.question, f"{row.value:,.1f}", row.unit, f"{row.spread:.0%}")
    console.print(view)
    folder = Path("runs/bench")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_text(
        json.dumps({"about": about, "rows": [dataclasses.asdict(r) for r in rows]}, indent=1)
    )


if __name__ == "__main__":
    main()
