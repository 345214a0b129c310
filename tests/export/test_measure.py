"""What an exported file must give, on files that are arrays in disguise."""

import dataclasses

import numpy as np
import pytest

from clip_jax.export.measure import measure, overlap
from clip_jax.export.runner import Runner
from clip_jax.interop.proof.gate import NotProven
from tests.export.models import wanted


@pytest.fixture
def case(exported):
    """A joint file that gives just what the model gives, and how to spoil it."""
    config, params, samples = exported("vit")
    file = wanted(config, params, "joint")
    made = file.graph()
    rows = {tokens.tobytes(): i for i, tokens in enumerate(samples.tokens)}

    def run_with(spoil=lambda outputs, rows: outputs, precision="f32", real=True):
        def run(inputs):
            at = [rows[tokens.tobytes()] for tokens in inputs["tokens"]]
            outputs = {name: found[at].copy() for name, found in samples.outputs.items()}
            outputs["logits"] = samples.scale * outputs["image_embedding"] @ outputs["text_embedding"].T
            return spoil(outputs, np.array(at))

        runner = Runner(run=run, by="arrays", real=real)
        return measure(runner, dataclasses.replace(file, precision=precision), made, samples)

    return run_with


def test_equal_outputs_are_equal(case):
    found, outputs = case()
    assert (found.largest, found.mean, found.overlap, found.by) == (0, 0, 1, "arrays")
    assert found.cosine == pytest.approx(1)
    assert found.p50 is not None
    assert 0 < found.p50 <= found.p95
    assert sorted(outputs) == ["image_embedding", "text_embedding"]


def test_what_does_not_run_itself_is_not_timed(case):
    found, _ = case(real=False)
    assert found.p50 is found.p95 is None


def _replace(name, function):
    return lambda outputs, rows: outputs | {name: function(outputs[name], rows)}


@pytest.mark.parametrize(
    ("spoil", "precision", "message"),
    [
        (
            _replace("text_embedding", lambda x, _: x * 0 + x[0] * 0 + 0.176),
            "f16",
            "it has collapsed: its text embeddings",
        ),
        (
            _replace("text_embedding", lambda x, rows: np.where((rows == 7)[:, None], np.nan, x)),
            "f16",
            "1 of its 200 text",
        ),
        (_replace("image_embedding", lambda x, _: x + np.float32(3e-4)), "f32", "at most 0.0001 in f32"),
        (_replace("image_embedding", lambda x, rows: np.roll(x, (rows == 9).any(), 1)), "f16", "smallest cosine"),
        (_replace("image_embedding", lambda x, _: x[:, :-1]), "f16", r"are \(200, 31\); expected \(200, 32\)"),
        (_replace("logits", lambda x, _: x + 1), "f32", "its logits differ by 1"),
        (
            lambda outputs, _: {"logits": outputs["logits"], "x": 0},
            "f32",
            "no output image_embedding, text_embedding, but",
        ),
        (
            _replace("image_embedding", lambda x, _: x[::-1] if len(x) > 1 else x),
            "f16",
            "its image embeddings are not ours",
        ),
    ],
)
def test_what_is_not_the_model_is_refused(case, spoil, precision, message):
    with np.errstate(invalid="ignore"), pytest.raises(NotProven, match=message):
        case(spoil, precision)


def test_overlap_by_hand(exported):
    samples = exported("vit")[2]
    image = np.eye(40, dtype=np.float32)
    text = np.arange(40, 0, -1, dtype=np.float32)[None] / 1000 + np.zeros((1, 40), np.float32)
    known = dataclasses.replace(samples, outputs={"image_embedding": image, "text_embedding": text})
    assert overlap({}, known) == 1
    assert overlap({"text_embedding": text[:, ::-1].copy()}, known) == 0
    assert overlap({"text_embedding": np.roll(text, 5, axis=1)}, known) == 15 / 20
