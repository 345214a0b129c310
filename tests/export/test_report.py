"""The page of a folder of exports."""

import dataclasses
import re

from clip_jax.cli import report as command
from clip_jax.export.record import RECORD, Exported, Record
from clip_jax.plain import to_dict
from clip_jax.writers import write_json
from tests.export.models import CONFIGS
from tests.recorded_run import NASTY, Page

FILE = Exported(
    path="onnx-int8/image.onnx",
    format="onnx",
    precision="int8",
    tower="image",
    preprocess=False,
    batch=None,
    bytes=1_234_567,
    parameters=1_200_000,
    seconds=1.0,
    largest=4.2e-3,
    mean=5e-4,
    cosine=0.99912,
    overlap=0.971,
    p50=2.0,
    p95=3.5,
    by="onnxruntime 1.0",
)
OTHERS = (
    dataclasses.replace(
        FILE, path="coreml-int8/image.mlpackage", format="coreml", p50=None, p95=None, batch=1, bytes=617_283
    ),
    dataclasses.replace(FILE, path="onnx-int8/text.onnx", tower="text"),
)


def write(folder, **changes):
    record = Record(
        source="quickstart: a clip_jax run",
        model=CONFIGS["vit"],
        origin={},
        samples=200,
        files=(FILE, *OTHERS),
        overlaps={"onnx-int8": 0.9525},
        made_with={"jax": "0.10"},
    )
    write_json(folder / RECORD, to_dict(dataclasses.replace(record, **changes)))


def test_the_page_says_what_was_measured(tmp_path, capsys):
    write(tmp_path)
    assert command.main(["clip-jax report", str(tmp_path)]) == 0
    assert (
        "3 files of quickstart: a clip_jax run; the smallest is coreml-int8/image.mlpackage" in capsys.readouterr().out
    )
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert page.headings == [1, 2, 2, 2, 2]
    for said in ("1.23", "2.0", "3.5", "4.2e-03", "0.999120", "97.1%", "95.2%", "not run here", "jax 0.10"):
        assert said in " ".join(page.words), said
    assert re.findall(r'<i style="width: ([\d.]+)%', text) == ["100.0", "100.0", "50.0", "100.0", "100.0", "95.2"]
    assert not re.search(r'(src|href)="(?!#)', text)


def test_texts_are_escaped_and_the_file_may_be_named(tmp_path, capsys):
    write(tmp_path, source=NASTY, overlaps={})
    out = tmp_path / "page.html"
    assert command.main(["clip-jax report", str(tmp_path), "--out", str(out)]) == 0
    page = Page(out.read_text())
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert "Both towers together" not in page.words
