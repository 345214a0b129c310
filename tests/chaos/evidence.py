"""What two runs have in common: figures, parameters' fingerprints, and the samples that each step was trained on."""

import json
from pathlib import Path
from typing import Any

from clip_jax.run_folder import METRICS


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl."""
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def losses(folder: Path) -> dict[int, float]:
    """By step."""
    return {row["step"]: row["loss"] for row in metrics(folder) if "loss" in row}


def fingerprints(folder: Path, step: int) -> dict[str, int]:
    """Of every array of the checkpoint at `step`, as it was proven when written."""
    proof = json.loads((folder / "checkpoints" / str(step) / "proof" / "metadata").read_text())
    return proof["fingerprints"]


def samples(folder: Path) -> dict[int, list[int]]:
    """By batch, the uids in their order over all processes. Raises AssertionError where a batch was not the same each time
    that it was read."""
    shares: dict[int, dict[tuple[int, int], list[int]]] = {}
    for file in sorted(folder.glob("samples.*.jsonl")):
        for line in file.read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # empty, or cut by a kill
            part = shares.setdefault(row["batch"], {})
            again = part.setdefault(tuple(row["of"]), row["uids"])
            assert again == row["uids"], f"batch {row['batch']} was read with other samples"
    return {batch: _joined(batch, part) for batch, part in sorted(shares.items())}


def _joined(batch: int, part: dict[tuple[int, int], list[int]]) -> list[int]:
    whole = []
    for processes in {processes for _, processes in part}:
        own = [part.get((process, processes)) for process in range(processes)]
        if None not in own:
            whole.append([uid for share in own if share for uid in share])
    assert whole, f"batch {batch} was read by no full set of processes"
    assert all(one == whole[0] for one in whole), f"batch {batch} differs between numbers of processes"
    return whole[0]


def compared(ours: Path, reference: Path, steps: int) -> dict[str, Any]:
    """loss_difference: the greatest relative one of a step. exact: whether all figures and all arrays are the same bits.
    lost, repeated: samples of the reference's steps that ours were not trained on, or more often than it."""
    our_losses, their_losses = losses(ours), losses(reference)
    assert list(our_losses) == list(their_losses) == list(range(1, steps + 1)), "each step once"
    apart = max(abs(our_losses[step] - loss) / abs(loss) for step, loss in their_losses.items())
    same_figures = (ours / METRICS).read_bytes() == (reference / METRICS).read_bytes()
    mine, theirs = samples(ours), samples(reference)
    lost = repeated = 0
    for batch in range(steps):
        lost += len(set(theirs[batch]) - set(mine.get(batch, [])))
        repeated += len(mine.get(batch, [])) - len(set(mine.get(batch, [])) & set(theirs[batch]))
    return {
        "loss_difference": apart,
        "exact": same_figures and fingerprints(ours, steps) == fingerprints(reference, steps),
        "samples": sum(len(mine[batch]) for batch in range(steps)),
        "lost": lost,
        "repeated": repeated,
    }
