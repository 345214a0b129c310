"""An exported file run on real images and captions: how far its embeddings are from ours, and how fast it is here."""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from clip_jax import ranking
from clip_jax.export.graph import Graph, Wanted
from clip_jax.export.runner import Runner
from clip_jax.export.samples import Samples
from clip_jax.interop.packing import Precision
from clip_jax.interop.proof.gate import TOLERANCE, NotProven

TOP = 20
COSINES: dict[Precision, float] = {"f32": 1 - TOLERANCE, "f16": 0.999, "int8": 0.95}  # least between a file's and ours
_ALIKE = 0.98  # mean cosine of unlike captions above which a text tower says nothing any more
_TIMED, _SECONDS = 50, 5.0  # calls, and seconds after which no more are made
_FEW = 5  # samples at once, of a file that takes any number


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What a file gives for the samples, against our own model in f32.

    largest, mean: absolute difference of an element of a unit-norm embedding. cosine: the smallest between two embeddings of
    the same input. overlap: of the captions' first TOP images, its and ours, a share; a tower that is exported alone is paired
    with our other one. p50, p95: milliseconds of a call with one sample (or with the batch that is fixed); None where the file
    itself does not run here. by: what ran it.
    """

    largest: float
    mean: float
    cosine: float
    overlap: float
    p50: float | None
    p95: float | None
    by: str


def measure(runner: Runner, wanted: Wanted, graph: Graph, samples: Samples) -> tuple[Measured, dict[str, np.ndarray]]:
    """Its figures, and its embeddings of all samples by output.

    Raises NotProven where an output is not finite, a text tower has collapsed, embeddings are further from ours than rounding
    to the precision explains, logits do not follow from embeddings, or another size of batch is refused or changes them.
    """
    calls = list(_calls(runner, wanted, graph, samples))
    outputs = {
        name: np.concatenate([call[name] for call in calls])[: len(samples)]
        for name in graph.outputs
        if name in samples.outputs
    }
    _check(outputs, calls, samples, wanted.precision)
    if wanted.batch is None:
        together = _called(runner, graph, samples, np.arange(_FEW))
        _check({name: together[name] for name in outputs}, [together], samples, wanted.precision)
    expected = {name: samples.outputs[name] for name in outputs}
    differences = np.concatenate([np.abs(outputs[name] - expected[name]).ravel() for name in outputs])
    times = _times(runner, wanted, graph, samples) if runner.real else None
    return Measured(
        largest=float(differences.max()),
        mean=float(differences.mean()),
        cosine=min(float(_cosines(outputs[name], expected[name]).min()) for name in outputs),
        overlap=overlap(outputs, samples),
        p50=None if times is None else float(np.percentile(times, 50)),
        p95=None if times is None else float(np.percentile(times, 95)),
        by=runner.by,
    ), outputs


def overlap(outputs: dict[str, np.ndarray], samples: Samples) -> float:
    """Share of the captions' first TOP images that are ours, too; embeddings that are not given are ours."""
    ours, theirs = samples.outputs, {**samples.outputs, **outputs}
    lists = [ranking.top_lists(one["text_embedding"] @ one["image_embedding"].T, TOP) for one in (ours, theirs)]
    return float(ranking.overlap(*lists).mean())


def _calls(runner: Runner, wanted: Wanted, graph: Graph, samples: Samples) -> Iterator[dict[str, np.ndarray]]:
    """All outputs for all samples, batch by batch; the last sample is repeated where they do not fill one."""
    batch = wanted.batch or 1
    for start in range(0, len(samples), batch):
        yield _called(runner, graph, samples, np.minimum(np.arange(start, start + batch), len(samples) - 1))


def _called(runner: Runner, graph: Graph, samples: Samples, rows: np.ndarray) -> dict[str, np.ndarray]:
    given = runner.run(samples.inputs(graph.inputs, rows))
    if missing := [name for name in graph.outputs if name not in given]:
        raise NotProven(f"it has no output {', '.join(missing)}, but {', '.join(given)}")
    return given


def _check(
    outputs: Mapping[str, np.ndarray], calls: Sequence[Mapping[str, np.ndarray]], samples: Samples, precision: Precision
) -> None:
    """outputs: embeddings of the first samples; calls: all outputs of the calls that gave them."""
    for name, found in outputs.items():
        _check_embeddings(name.replace("_", " ") + "s", found, samples.outputs[name][: len(found)], precision)
    if "logits" in calls[0]:
        far = max(_logits_off(call, samples) for call in calls)
        allowed = 2.0**-9 * (samples.scale + abs(samples.bias))  # of numbers of their size in f16
        if not far <= allowed:
            raise NotProven(f"its logits differ by {far:.2g} from what its embeddings give; at most {allowed:.2g}")


def _check_embeddings(what: str, found: np.ndarray, expected: np.ndarray, precision: Precision) -> None:
    if found.shape != expected.shape:
        raise NotProven(f"its {what} are {found.shape}; expected {expected.shape}")
    if not np.isfinite(found).all():
        rows = int((~np.isfinite(found)).any(axis=1).sum())
        raise NotProven(
            f"{rows} of its {len(found)} {what} hold NaN or infinity: a number left the range of {precision}"
        )
    if _likeness(found) > max(_ALIKE, _likeness(expected) + 0.01):
        raise NotProven(
            f"it has collapsed: its {what} of {len(found)} different inputs are all alike (mean cosine {_likeness(found):.4f}; "
            f"ours {_likeness(expected):.4f})"
        )
    least = float(_cosines(found, expected).min())
    if not least >= COSINES[precision]:
        raise NotProven(
            f"its {what} are not ours: smallest cosine {least:.5f}, at least {COSINES[precision]:g} in {precision}"
        )
    largest = float(np.abs(found - expected).max())
    if precision == "f32" and not largest <= TOLERANCE:
        raise NotProven(f"its {what} differ from ours by {largest:.2g}; at most {TOLERANCE:g} in f32")


def _logits_off(call: Mapping[str, np.ndarray], samples: Samples) -> float:
    """Largest difference of a call's logits from those that its embeddings give."""
    cosines = call["image_embedding"] @ call["text_embedding"].T
    return float(np.abs(call["logits"] - (samples.scale * cosines + samples.bias)).max())


def _times(runner: Runner, wanted: Wanted, graph: Graph, samples: Samples) -> list[float]:
    """Milliseconds of calls one after another, after some that warm up."""
    found, began = [], time.perf_counter()
    inputs = samples.inputs(graph.inputs, np.arange(wanted.batch or 1) % len(samples))
    for _ in range(3):
        runner.run(inputs)
    while len(found) < _TIMED and (len(found) < 3 or time.perf_counter() - began < _SECONDS):
        start = time.perf_counter()
        runner.run(inputs)
        found.append(1000 * (time.perf_counter() - start))
    return found


def _cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return (left * right).sum(axis=1) / (np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1))


def _likeness(rows: np.ndarray) -> float:
    """Mean cosine of two different rows."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    count = len(rows)
    return float(((unit.sum(axis=0) ** 2).sum() - count) / (count * (count - 1)))
