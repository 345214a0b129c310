"""Does distillation pay? `make bench-distill`: one teacher, one student, every loss, several seeds, one table.

Each finished run is a line of runs/bench-distill/results.jsonl; a bench that was stopped goes on with the next one.
"""

import argparse
import hashlib
import json
import platform
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from clip_jax import tree
from clip_jax.cli import embed
from clip_jax.cli.start import prepare
from clip_jax.data.teacher_manifest import read_manifest
from clip_jax.evals.agreement import AgreementConfig
from clip_jax.evals.embed import Encoder
from clip_jax.evals.protocol import Evaluation
from clip_jax.evals.retrieval import RETRIEVAL_FIGURES, RetrievalConfig
from clip_jax.evals.suite import open_evaluations, run_evaluations
from clip_jax.experiment import TrainConfig
from clip_jax.loading import load, load_encoder
from clip_jax.plain import to_dict
from clip_jax.run_folder import CHECKPOINTS
from clip_jax.train import train
from clip_jax.writers import clock, write_json
from tests.bench.distill_data import make_data, name_of_data, split
from tests.bench.distill_report import write_report
from tests.bench.distill_settings import (
    BATCH,
    LR,
    TUNING_SEED,
    VIEWS,
    Variant,
    student_config,
    student_steps,
    teacher_config,
)
from tests.bench.distill_variants import candidates, variants

_FOLDER = Path("runs/bench-distill")
_RESULTS = _FOLDER / "results.jsonl"
_ABOUT = _FOLDER / "about.json"


def main() -> None:
    """Trains the teacher and stores its embeddings, then the students seed by seed, each variant with one seed before the
    next seed begins."""
    options = _options()
    prepare()
    bench = _Bench()
    chosen = candidates() if options.tune else bench.variants
    seeds = [TUNING_SEED] if options.tune else range(options.seeds)
    names = set(options.only.split(",")) - {""}
    if unknown := names - {variant.name for variant in chosen}:
        raise SystemExit(f"--only {sorted(unknown)}: there are {', '.join(variant.name for variant in chosen)}")
    work = [(variant, seed) for seed in seeds for variant in chosen if not names or variant.name in names]
    bench.run(work, options.minutes)
    bench.report(options.seeds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.distill", description=__doc__)
    parser.add_argument("--only", default="", help="names of variants, with commas between; all by default")
    parser.add_argument("--seeds", type=int, default=3, help="0 to N - 1")
    parser.add_argument("--minutes", type=float, default=0, help="begin no run after so many; 0 for no limit")
    parser.add_argument("--tune", action="store_true", help="the candidates, on the dev split, with the tuning seed")
    return parser.parse_args()


class _Bench:
    """Data, teacher and store, made where they are missing; the evaluations, opened once; the results so far."""

    def __init__(self):
        self._data, self._teacher, self._store = (_FOLDER / name for name in ("data", "teacher", "store"))
        self._samples = make_data(self._data)
        self.variants = variants(student_steps(self._samples["train"]))
        teacher = teacher_config(self._data, self._samples["train"])
        if not any((self._teacher / CHECKPOINTS).glob(str(teacher.steps))):
            train(teacher, self._teacher)
        given = ["--model", str(self._teacher), "--data", str(self._teacher), "--store", str(self._store)]
        embed.main(["embed", *given, "--views", str(VIEWS)])
        self._weights = read_manifest(self._store).teacher.weights_hash
        evaluations = {name: RetrievalConfig(source=split(self._data, name)) for name in ("dev", "val")}
        agreement = AgreementConfig(teacher=str(self._teacher), source=split(self._data, "val"))
        self._evaluations: dict[str, Evaluation] = open_evaluations(
            evaluations | {"agreement": agreement}, load=load_encoder
        )
        self._began, self._seconds = time.monotonic(), []
        if not _ABOUT.is_file() or json.loads(_ABOUT.read_text())["teacher"]["weights"] != self._weights:
            self._describe(teacher)

    def run(self, work: Sequence[tuple[Variant, int]], minutes: float) -> None:
        """All that has no result yet, in order."""
        done = self._done()
        todo = [(variant, seed) for variant, seed in work if self._key(variant, seed) not in done]
        print(f"{len(todo)} runs to do, {len(work) - len(todo)} done before", flush=True)
        for number, (variant, seed) in enumerate(todo, 1):
            if minutes and time.monotonic() - self._began > 60 * minutes:
                print(f"{minutes:g} minutes are over; the same command goes on", flush=True)
                return
            self._one(variant, seed)
            left = statistics.fmean(self._seconds[-5:]) * (len(todo) - number)
            print(f"run {number}/{len(todo)}  ETA {clock(left)}", flush=True)

    def report(self, seeds: int) -> None:
        """Of today's settings: the page's table, and all runs as JSON."""
        done = self._done()

        def of(chosen: Sequence[Variant], seeds: Sequence[int]) -> list[dict[str, Any]]:
            keys = [self._key(variant, seed) for variant in chosen for seed in seeds]
            return [done[key] for key in keys if key in done]

        tuning = of(candidates(), [TUNING_SEED])
        write_report(self.variants, of(self.variants, range(seeds)), tuning, json.loads(_ABOUT.read_text()))

    def _one(self, variant: Variant, seed: int) -> None:
        folder, began = _FOLDER / "runs" / f"{variant.name}-{seed}", time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)
        finished = train(self._config(variant, seed), folder)
        encoder = load_encoder(folder)
        figures, _ = self._measure(encoder)
        seconds = time.monotonic() - began
        shutil.rmtree(folder / CHECKPOINTS)
        line = {"variant": variant.name, "seed": seed, "key": self._key(variant, seed), "figures": figures}
        line |= {"seconds": round(seconds, 1), "pairs_per_second": round(finished.pairs_per_second, 1)}
        with _RESULTS.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._seconds.append(seconds)
        shown = (
            "dev/mean_recall",
            "val/mean_recall",
            "val/image_to_text_r1",
            "val/text_to_image_r1",
            "agreement/overlap_at_20",
        )
        said = "  ".join(f"{name} {100 * figures[name]:.1f}" for name in shown)
        print(f"{variant.name} seed {seed}: {said}  {clock(seconds)}", flush=True)

    def _config(self, variant: Variant, seed: int) -> TrainConfig:
        places = {"data": self._data, "teacher": self._teacher, "store": self._store}
        return student_config(variant, seed, samples=self._samples["train"], **places)

    def _key(self, variant: Variant, seed: int) -> str:
        """Of the teacher, of what a variant is and of the bench's settings: results with another one count no more."""
        told = {key: value for key, value in to_dict(variant).items() if key not in ("name", "label")}
        steps = student_steps(self._samples["train"])
        given = json.dumps([told, seed, self._weights, [BATCH, steps, LR, VIEWS]], sort_keys=True)
        return hashlib.blake2b(given.encode(), digest_size=8).hexdigest()

    def _done(self) -> dict[str, dict[str, Any]]:
        lines = _RESULTS.read_text().splitlines() if _RESULTS.is_file() else []
        whole = [line for line in lines if line.endswith("}")]  # a kill may have cut the last one
        return {line["key"]: line for line in map(json.loads, whole)}

    def _measure(self, encoder: Encoder) -> tuple[dict[str, float], dict[str, float]]:
        """Figures and what chance gives, by `evaluation/figure`; mean_recall: of R@1, R@5 and R@10 both ways."""
        figures: dict[str, float] = {}
        chance: dict[str, float] = {}
        for name, outcome in run_evaluations(self._evaluations, encoder).items():
            figures |= {f"{name}/{key}": one.value for key, one in outcome.figures.items()}
            chance |= {f"{name}/{key}": one.chance for key, one in outcome.figures.items() if one.chance is not None}
        for split_name in ("dev", "val"):
            for numbers in (figures, chance):
                recalls = [numbers[f"{split_name}/{figure}"] for figure in RETRIEVAL_FIGURES]
                numbers[f"{split_name}/mean_recall"] = statistics.fmean(recalls)
        return figures, chance

    def _describe(self, teacher: TrainConfig) -> None:
        """What the results are about: data, teacher, student, machine."""
        figures, chance = self._measure(load_encoder(self._teacher))
        student = self._config(self.variants[0], 0)
        about: Mapping[str, Any] = {
            "data": {"name": name_of_data(), "samples": self._samples},
            "teacher": {
                "weights": self._weights,
                "figures": figures,
                "parameters": tree.count(load(self._teacher).params),
                "config": to_dict(teacher),
            },
            "student": {"config": to_dict(student)},
            "chance": chance,
            "python": platform.python_version(),
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
            "views": VIEWS,
            "tuning_seed": TUNING_SEED,
        }
        write_json(_ABOUT, about)


if __name__ == "__main__":
    main()
