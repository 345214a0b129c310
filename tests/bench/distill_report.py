"""The results of the distillation bench as a page's table and as JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clip_jax.objectives import Ramp
from clip_jax.plain import to_dict
from clip_jax.writers import write_json
from tests.bench.distill_settings import Variant
from tests.bench.distill_table import Runs, cell, difference, difference_cell, markdown, write_between
from tests.bench.distill_variants import BASELINE, SKIPPED

_PAGE, _JSON = Path("docs/distillation.md"), Path("docs/distillation.json")
_COLUMNS = {
    **{f"i→t R@{k}": f"val/image_to_text_r{k}" for k in (1, 5, 10)},
    **{f"t→i R@{k}": f"val/text_to_image_r{k}" for k in (1, 5, 10)},
    "overlap@20": "agreement/overlap_at_20",
    "RBO": "agreement/rbo",
}
_JUDGED = "val/mean_recall"


def write_report(
    variants: Sequence[Variant],
    results: Sequence[Mapping[str, Any]],
    tuning: Sequence[Mapping[str, Any]],
    about: Mapping[str, Any],
) -> None:
    """Prints the table, and writes it into docs/distillation.md and, with all runs, docs/distillation.json.

    results, tuning: lines of results.jsonl. about: about.json.
    """
    runs: dict[str, Runs] = {variant.name: {} for variant in variants}
    for line in results:
        runs[line["variant"]] = {**runs[line["variant"]], line["seed"]: line["figures"]}
    block = _block(variants, runs, about)
    print(block)
    described = {
        variant.name: {"label": variant.label, "weights": {name: _weight(w) for name, w in variant.weights.items()}}
        for variant in variants
    }
    whole = {
        "command": "make bench-distill",
        "about": about,
        "variants": described,
        "skipped": SKIPPED,
        "runs": list(results),
        "tuning": [{**line, "figures": _of_dev(line["figures"])} for line in tuning],
    }
    write_json(_JSON, whole)
    if _PAGE.is_file():
        write_between(_PAGE, block)


def _block(variants: Sequence[Variant], runs: Mapping[str, Runs], about: Mapping[str, Any]) -> str:
    header = ["taught by", "weights", "seeds", *_COLUMNS, "mean recall against no teacher"]
    known = [("chance", about["chance"]), ("the teacher itself", about["teacher"]["figures"])]
    rows = [[name, "", "", *(cell([figures[key]]) for key in _COLUMNS.values()), ""] for name, figures in known]
    baseline = runs[BASELINE]
    for variant in variants:
        own = runs[variant.name]
        if not own:
            continue
        cells = [cell([own[seed][key] for seed in sorted(own)]) for key in _COLUMNS.values()]
        apart = "" if variant.name == BASELINE else difference_cell(difference(own, baseline, _JUDGED))
        rows.append([variant.label, _mix(variant), str(len(own)), *cells, apart])
    return markdown(header, rows) + "\n\n" + _legend([variant for variant in variants if not runs[variant.name]], about)


def _legend(missing: Sequence[Variant], about: Mapping[str, Any]) -> str:
    """missing: variants without any run."""
    samples = about["data"]["samples"]
    waiting = "; ".join(f"{variant.label} ({_mix(variant)})" for variant in missing)
    skipped = "; ".join(f"{name} ({reason})" for name, reason in SKIPPED.items())
    return (
        f"In per cent, mean ± standard deviation over the seeds. {samples['train']:,} training samples of "
        f"`{about['data']['name']}`, {samples['val']:,} for validation; a caption that several images share is right for "
        "each of them. Mean recall: of the six R@K; its difference is taken seed by seed, * where the 95% interval of the "
        "mean difference (Student's t) leaves 0 out. The learning rate, the weights of FD and GD and the best mix were "
        f"chosen with a seed that is not reported, on {samples['dev']:,} training samples that neither teacher nor student "
        "trains on; all others are as published, or 1. "
        + (f"Set up, but not run: {waiting}. " if waiting else "")
        + f"Not set up: {skipped}."
    )


def _of_dev(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if name.startswith("dev/")}


def _weight(weight: float | Ramp) -> Any:
    return to_dict(weight)


def _mix(variant: Variant) -> str:
    return ", ".join(f"{name} {_short(weight)}" for name, weight in variant.weights.items())


def _short(weight: float | Ramp) -> str:
    return f"{weight.start:g} to {weight.end:g}" if isinstance(weight, Ramp) else f"{weight:g}"
