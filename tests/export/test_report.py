"""The page of a folder of exports."""

import dataclasses
import re

from clip_jax.cli import report as command
from clip_jax.export.record import RECORD
from clip_jax.plain import to_dict
from clip_jax.writers import write_json
from tests.export.recorded import RECORDED
from tests.recorded_run import NASTY, Page


def write(folder, **changes):
    write_json(folder / RECORD, to_dict(dataclasses.replace(RECORDED, **changes)))


def test_the_page_says_what_was_measured(tmp_path, capsys):
    write(tmp_path)
    assert command.main(["clip-jax report", str(tmp_path)]) == 0
    assert (
        "3 files of quickstart: a clip_jax run; the smallest is coreml-int8/image.mlpackage" in capsys.readouterr().out
    )
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert page.headings == [1, 2, 2, 2, 2]
    for said in (
        "1.23",
        "2.0",
        "3.5",
        "4.2e-03",
        "0.999120",
        "97.1%",
        "95.2%",
        "chance would give 10%",
        "2 cores, x86_64",
        "did not run themselves",
        "not run here",
        "jax 0.10",
    ):
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
