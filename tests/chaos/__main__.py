"""Kills runs at random moments and compares them with runs that nothing happened to.

usage: python -m tests.chaos [--kills 100] [--out runs/chaos] [--seed 0] [--write]

Goes on where it was stopped; --write puts the table into docs/reliability.md.
"""

import argparse
import dataclasses
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from clip_jax.writers import clock, write_json
from tests.chaos.evidence import compared
from tests.chaos.killing import Kill, Start, environment, kill_until_done
from tests.chaos.table import summary, write_page

STEPS = 40
ROUND = 9  # kills of a run at most, after which it is let finish
SHARES = {(1,): 0.4, (2,): 0.3, (4,): 0.15, (1, 2, 4): 0.15}  # of all kills, by the numbers of processes of the starts


def main() -> int:
    """Exit code 1 where a run differs from its reference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/chaos"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    rounds = chaos(args.kills, args.out, args.seed)
    for line in summary(rounds):
        print(line)
    if args.write:
        write_page(rounds)
    return int(any(not one["as_it_should_be"] for one in rounds))


def chaos(kills: int, out: Path, seed: int) -> list[dict[str, Any]]:
    """All rounds; those of an earlier call among them."""
    out.mkdir(parents=True, exist_ok=True)
    environment(out / "compiled")
    results = out / "chaos.json"
    rounds: list[dict[str, Any]] = json.loads(results.read_text()) if results.is_file() else []
    began, before = time.monotonic(), sum(len(one["kills"]) for one in rounds)
    done = [before]

    def told(kill: Kill) -> None:
        done[0] += 1
        each = (time.monotonic() - began) / (done[0] - before)
        what = f"{kill.signal} to {kill.victim} in {kill.phase}, checkpoint at {kill.step}"
        left = clock(each * max(kills - done[0], 0))
        print(f"kill {done[0]}/{kills}: {what}, ended in {kill.end_seconds:.1f} s; ETA {left}", flush=True)

    for processes, share in SHARES.items():
        name = "-".join(map(str, processes))
        reference = undisturbed(out, max(processes) if len(processes) == 1 else 1)
        wanted = round(share * kills)
        while (have := sum(len(one["kills"]) for one in rounds if one["processes"] == list(processes))) < wanted:
            number = len(rounds)
            folder = out / f"{number:03}-{name}"
            shutil.rmtree(folder, ignore_errors=True)  # of a round that was cut short
            found, starts = kill_until_done(folder, processes, min(ROUND, wanted - have), seed + 1000 * number, told)
            evidence = compared(folder, reference, STEPS)
            good = evidence["exact"] if len(processes) == 1 else evidence["loss_difference"] <= 1e-6
            rounds.append(
                {
                    "processes": list(processes),
                    "starts": starts,
                    "kills": [dataclasses.asdict(kill) for kill in found],
                    "as_it_should_be": good and not evidence["lost"] and not evidence["repeated"],
                }
                | evidence
            )
            write_json(results, rounds)
            verdict = "as undisturbed" if rounds[-1]["as_it_should_be"] else f"DIFFERS: {evidence}"
            print(f"run {number} on {name} processes: {len(found)} kills, {starts} starts, {verdict}", flush=True)
    return rounds


def undisturbed(out: Path, processes: int) -> Path:
    """The run that nothing happened to, on so many processes."""
    folder = out / f"undisturbed-{processes}"
    if not (folder / "checkpoints" / str(STEPS)).is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        print(f"an undisturbed run on {processes} processes", flush=True)
        code = Start(folder, processes).end()
        assert code == 0, f"the undisturbed run ended with {code}; see {folder}/log"
    return folder


if __name__ == "__main__":
    sys.exit(main())
