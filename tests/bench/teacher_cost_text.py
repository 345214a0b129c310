"""The figures of tests.bench.teacher_cost in words: a table for the terminal, and a block of docs/distillation.md."""

from typing import Any

_BEGIN, _END = "<!-- cost: begin -->", "<!-- cost: end -->"


def lines(figures: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(what, measured, target, whether it is met) with a head line."""
    seconds, cpu, peak, targets = figures["seconds"], figures["cpu"], figures["peak"], figures["targets"]
    compiled, reads, about = figures["compiled"], figures["reads"], figures["about"]
    low, high = figures["stored_time_quartiles"]
    held = "the device's peak" if figures["on_device"] else "the process's peak while it steps"
    cold = f"{reads['cold'] / 1e3:,.0f} ms" if reads["cold"] is not None else "not measured"

    def mode(values: dict[str, float], unit: str, digits: int = 2) -> str:
        return " / ".join(f"{values[name]:,.{digits}f}" for name in ("plain", "stored", "live")) + f" {unit}"

    def met(value: float, target: float, most: bool) -> tuple[str, str]:
        return f"{'at most' if most else 'at least'} {target:g}", "met" if (value <= target) == most else "not met"

    return [
        ("what", "measured", "target", ""),
        ("step: plain / stored / live", mode(seconds, "s"), "", ""),
        ("the same in processor seconds", mode(cpu, "s"), "", ""),
        (
            "step, stored over plain",
            f"{figures['stored_time']:.3f} (quartiles {low:.3f} to {high:.3f})",
            *met(figures["stored_time"], targets["stored_time"], True),
        ),
        (
            "the same in processor seconds",
            f"{figures['stored_cpu']:.3f}",
            *met(figures["stored_cpu"], targets["stored_time"], True),
        ),
        (
            "step, live over stored",
            f"{figures['live_time']:.2f}",
            *met(figures["live_time"], targets["live_time"], False),
        ),
        (
            "the same in processor seconds",
            f"{figures['live_cpu']:.2f}",
            *met(figures["live_cpu"], targets["live_time"], False),
        ),
        ("the same in multiply-adds", f"{figures['multiply_adds']:.1f}", "", ""),
        (f"memory, {held}: plain / stored / live", mode(peak, "MB", 0), "", ""),
        (
            "memory, live over stored",
            f"{figures['whole_size']:.2f}",
            *met(figures["whole_size"], targets["live_size"], False),
        ),
        ("memory that the compiled steps need", mode(compiled, "MB", 0), "", ""),
        (
            "the same, live over stored",
            f"{figures['whole_compiled']:.2f}",
            *met(figures["whole_compiled"], targets["live_size"], False),
        ),
        (
            "memory that the teacher adds to plain, live over stored",
            f"{peak['live'] - peak['plain']:,.0f} / {peak['stored'] - peak['plain']:,.0f} MB = {figures['added_size']:,.0f}",
            *met(figures["added_size"], targets["live_size"], False),
        ),
        (
            "the same of the compiled steps",
            f"{compiled['live'] - compiled['plain']:,.1f} / {compiled['stored'] - compiled['plain']:,.1f} MB = "
            f"{figures['added_compiled']:,.0f}",
            *met(figures["added_compiled"], targets["live_size"], False),
        ),
        ("waiting for the loader, of the step", mode({k: 100 * v for k, v in figures["waiting"].items()}, "%"), "", ""),
        (
            f"the loader reads {reads['batch']:,} pairs of {reads['embed_dim']} numbers: from memory, disk; looks uids up",
            f"{reads['warm'] / 1e3:,.1f} ms, {cold}; {reads['lookup'] / 1e3:,.1f} ms",
            "",
            "",
        ),
        ("stored targets, heads", f"{figures['targets_kb']:,.0f} kB a batch, {figures['heads_mb']:,.1f} MB", "", ""),
        ("teacher's weights and batch", f"{figures['weights_mb']:,.0f} MB in {about['dtype']}", "", ""),
    ]


def replaced(text: str, figures: dict[str, Any]) -> str:
    """The page with this block in place of the one before it, or at its end."""
    before, found, rest = text.partition(_BEGIN)
    after = rest.partition(_END)[2] if found else ""
    start = before if found or not before else before.rstrip() + "\n\n"
    return f"{start}{_BEGIN}\n{_block(figures)}{_END}{after or chr(10)}"


def _block(figures: dict[str, Any]) -> str:
    head, *rows = lines(figures)
    about, steps = figures["about"], figures["steps"]
    table = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
    first, last = figures["load"]
    halved = ", bf16 halves it" if about["dtype"] == "float32" else ""
    weights = f"{figures['weights_mb']:,.0f} MB of weights ({about['dtype']}{halved})"
    heads = f"{figures['heads_mb']:,.1f} MB of trained projections with their moments"
    targets = f"{figures['targets_kb']:,.0f} kB of targets a batch"
    state, most = f"{figures['state_mb']:,.0f} MB", f"{figures['most_size']:.1f} times"
    slower = f"{figures['multiply_adds']:.1f} times the multiply-adds of a stored one"
    if figures["live_cpu"] < figures["multiply_adds"]:
        slower += "; the time shows less, since the teacher's wide\nproducts run faster than the student's narrow ones"
    return f"""`make bench-teacher` measured this: {figures["title"]}, jax {about["jax"]},
random weights and pictures, CLIP-KD's mix of losses: {steps["plain"]} steps without a teacher, {steps["stored"]} with a
stored and {steps["live"]} with a live one, in turn, in one process; medians. The machine's load was {first:.1f} at first and
{last:.1f} at last: where others share it, processor seconds say more than the clock. Memory is of three more processes, one
a mode.

{chr(10).join(table)}

A stored teacher costs what its losses cost, and its rows are read by the loader, ahead of the step. A live one costs
{slower}.

A live one adds {weights}, a store {heads} and
{targets}. By what the teacher adds, a live one is far more than nine times larger. By the whole training it
cannot be, with this pair: the student's own weights and moments take {state}, its gradient a third of that more, so that
even without any activations a live training would be {most} as large as a stored one, and activations, which both have,
lower that. The compiled steps' bytes are exact; a process's peak moves by hundreds of MB with what its allocator keeps.
"""
