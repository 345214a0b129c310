"""The rounds of chaos as words and as docs/reliability.md."""

import collections
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
_BEGIN, _END = "<!-- chaos: made by make chaos -->", "<!-- end of chaos -->"


def summary(rounds: Sequence[dict[str, Any]]) -> list[str]:
    """Lines for the terminal and for the page."""
    kills = _kills(rounds)
    recovered = [kill["recovery_seconds"] for kill in kills if kill["recovery_seconds"]]
    own = [one for one in rounds if len(one["processes"]) == 1]
    mixed = [one["loss_difference"] for one in rounds if len(one["processes"]) > 1]
    lines = [
        f"{len(kills)} kills over {len(rounds)} runs, {sum(one['starts'] for one in rounds)} starts.",
        f"{sum(one['exact'] for one in own)} of {len(own)} runs whose number of processes stayed the same ended with the same "
        "bits as an undisturbed run: every figure of metrics.jsonl, every array of the last checkpoint.",
    ]
    if mixed:
        lines.append(
            f"{len(mixed)} runs went on with 1, 2 or 4 processes from start to start; against one process, their losses "
            f"differ by {max(mixed):.1e} of a loss at most."
        )
    lines.append(
        f"{sum(one['samples'] for one in rounds):,} samples trained on: {sum(one['lost'] for one in rounds)} lost, "
        f"{sum(one['repeated'] for one in rounds)} repeated."
    )
    if recovered:
        lines.append(
            f"From a kill to training again: {statistics.mean(recovered):.1f} s on average, {max(recovered):.1f} s at most "
            f"({len(recovered)} times; the rest were killed again before); all processes ended within "
            f"{max(kill['end_seconds'] for kill in kills):.1f} s."
        )
    return lines


def tables(rounds: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown: kills by what was going on and by signal, and runs by processes."""
    kills = _kills(rounds)
    signals = sorted({kill["signal"] for kill in kills})
    counts = collections.Counter((kill["phase"], kill["signal"]) for kill in kills)
    phases = collections.Counter(kill["phase"] for kill in kills)
    lines = [_row("Killed in", *signals, "together"), _row("---", *["---:"] * (len(signals) + 1))]
    lines += [_row(phase, *(counts[phase, name] for name in signals), phases[phase]) for phase in sorted(phases)]
    lines += [
        "",
        _row("Processes", "runs", "kills", "of one process", "of all", "starts", "differ"),
        _row(*["---"] * 7),
    ]
    for processes in dict.fromkeys(tuple(one["processes"]) for one in rounds):
        those = [one for one in rounds if tuple(one["processes"]) == processes]
        own = _kills(those)
        one_of_many = _count(own, lambda kill: kill["victim"].startswith("process"))
        name = str(processes[0]) if len(processes) == 1 else "now one number, now another"
        wrong = _count(those, lambda one: not one["as_it_should_be"])
        starts = sum(one["starts"] for one in those)
        lines.append(_row(name, len(those), len(own), one_of_many, len(own) - one_of_many, starts, wrong))
    return lines


def write_page(rounds: Sequence[dict[str, Any]]) -> None:
    """Puts both between the page's two marks."""
    text = PAGE.read_text()
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    body = "\n".join([*(f"* {line}" for line in summary(rounds)), "", *tables(rounds)])
    PAGE.write_text(f"{before}{_BEGIN}\n{body}\n{_END}{after}")


def _kills(rounds: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [kill for one in rounds for kill in one["kills"]]


def _count(items: Sequence[dict[str, Any]], wanted: Callable[[dict[str, Any]], bool]) -> int:
    return sum(map(wanted, items))


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"
