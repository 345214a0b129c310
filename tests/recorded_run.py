"""A run folder that never was, and a reader that checks the page drawn of it."""

import html.parser
import json
import math
import re
from pathlib import Path

import numpy as np

from clip_jax.data.digits import DigitsConfig
from clip_jax.data.glyphs import GlyphsConfig
from clip_jax.evals.retrieval import RetrievalConfig
from clip_jax.evals.showcase import ShowcaseConfig
from clip_jax.evals.zero_shot import ZeroShotConfig
from clip_jax.experiment import TrainConfig
from clip_jax.models.presets import preset
from clip_jax.optim import OptimConfig
from clip_jax.plain import to_dict
from clip_jax.report import write_report

NASTY = '<script>alert("1")</script> & $x_1$'
QUERIES = ("a red heart", NASTY)
EVALS = {
    "icons": RetrievalConfig(source=GlyphsConfig(split="validation", limit=300)),
    NASTY: RetrievalConfig(source=GlyphsConfig(split="concepts", limit=500)),
    "numbers": ZeroShotConfig(source=DigitsConfig()),
    "gallery": ShowcaseConfig(queries=QUERIES),
}
CONFIG = TrainConfig(
    origin="configs/quickstart.py",
    steps=600,
    batch_size=64,
    model=preset("tiny"),
    evals=EVALS,
    eval_every=100,
    log_every=10,
    optim=OptimConfig(clip_norm=1.0, warmup_steps=60),
)


def make_run(folder: Path, *, config: TrainConfig = CONFIG, evaluated: bool = True, learned: bool = True) -> Path:
    """A run of 600 steps that never was, with a loss that is not finite at step 300."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    rng = np.random.default_rng(0)
    metrics, timing = [], []
    for step in range(10, 601, 10):
        done = step / 600
        skipped = float(step >= 300)
        loss = None if step == 300 else 3.9 * math.exp(-2.2 * done) + 0.05 * rng.normal()
        row = {"step": step, "loss": loss, "info_nce": loss, "lr": 1e-3 * min(done / 0.1, 1 - done), "skipped": skipped}
        row |= {
            "logit_scale": 14 + 9 * done,
            "grad_norm": 3 + rng.random(),
            "skipped_in_row": 0.0,
            "replaced": 5 * done,
        }
        metrics.append(row)
        speed = {
            "pairs_per_second": 200 + rng.random(),
            "step_seconds": 0.32,
            "loader_wait": 0.3,
            "tflops_per_device": 0.1,
        }
        timing.append({"step": step} | (speed if step > 10 else {"pairs_per_second": 0.0, "step_seconds": 0.0}))
        if step % 100 == 0:
            metrics.append({"step": step} | {key: value for key, (value, _) in _figures(done * learned).items()})
    write_rows(folder / "metrics.jsonl", metrics)
    write_rows(folder / "timing.jsonl", timing)
    bad = [{"step": 3, "uid": "00", "shard": f"shard-{n % 2}.tar", "reason": "0 bytes"} for n in range(5)]
    write_rows(folder / "bad_samples.jsonl", bad[:3])
    write_rows(folder / "bad_samples.1.jsonl", bad[3:])
    if evaluated:
        _evaluate(folder, learned)
    return folder


def _figures(done: float) -> dict[str, tuple[float, float]]:
    """Value and chance of all figures at a share of the run."""
    found = {}
    for name, size, reach in (("icons", 300, 0.8), (NASTY, 500, 0.3)):
        for way in ("image_to_text", "text_to_image"):
            for k in (1, 5, 10):
                chance = k / size
                found[f"{name}/{way}_r{k}"] = (chance + done * reach * (1 - 1 / (1 + k)), chance)
    return found | {"numbers/top1": (0.103, 0.1), "numbers/top5": (0.509, 0.5), "numbers/mean_per_class": (0.1, 0.1)}


def _evaluate(folder: Path, learned: bool) -> None:
    evaluations = {name: {"figures": {}, "counts": {"images": 500}} for name in EVALS}
    for key, (value, chance) in _figures(float(learned)).items():
        name, _, figure = key.rpartition("/")
        evaluations[name]["figures"][figure] = {"value": value, "chance": chance}
    evaluations["numbers"]["counts"] |= {"classes": 10, "unreadable": 0}
    about = {"run": "r", "step": 600, "weights": "ema", "time": "2026-11-22T10:25:19Z"}
    (folder / "evaluation.json").write_text(json.dumps({"about": about, "evaluations": evaluations}))
    rng = np.random.default_rng(1)
    texts = np.array([NASTY, *(f"a drawing, number {n}" for n in range(23))])

    def images(*shape: int) -> np.ndarray:
        flat = rng.integers(0, 255, (*shape, 1, 1, 3))
        return np.broadcast_to(flat, (*shape, 32, 32, 3)).astype(np.uint8)

    pictures = {
        "queries": np.array(QUERIES),
        "query_scores": rng.random((2, 5)).astype(np.float32),
        "query_images": images(2, 5),
        "matrix": (np.eye(24) * 0.5 + rng.random((24, 24)) * 0.3).astype(np.float32),
        "matrix_texts": texts,
        "matrix_images": images(24),
        "failed_texts": texts[:3],
        "failed_ranks": np.array([78, 50, 9]),
        "failed_wanted": images(3),
        "failed_got": images(3),
        "failed_of": np.array([47, 500]),
    }
    np.savez_compressed(folder / "pictures.npz", **{f"gallery/{key}": value for key, value in pictures.items()})


def write_rows(file: Path, rows: list[dict]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


VOID = {"meta", "img", "br", "hr", "link", "input", "wbr"}


class Page(html.parser.HTMLParser):
    """Checks nesting while it reads; keeps tags, ids, headings, text."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[int] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice in {tag}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def drawn(folder: Path) -> tuple[str, Page]:
    source = write_report(folder).path.read_text(encoding="utf-8")
    return source, Page(source)
