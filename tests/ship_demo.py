"""`make ship-demo`: a teacher and its student from checkpoint to phone and page, and how long each step takes.

Exports both in three formats and three precisions, evaluates them side by side, draws a folder of pictures, indexes it with
both, serves the search page, and takes a picture of it with the system's Chromium where that and Playwright are there.
"""

import argparse
import contextlib
import importlib.util
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from clip_jax.data.glyphs import Glyphs, GlyphsConfig

MARK = ".ship-demo"
PICTURES, SIDE = 500, 128
QUERIES = ("?q=star&c=yellow", "?q=speech bubble&c=red", "?q=a black house on yellow")
WIDE, PHONE = (1200, 820), (390, 844)
CLIP = (sys.executable, "-m", "clip_jax")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path, help="a run folder")
    parser.add_argument("student", type=Path, help="another one")
    parser.add_argument("out", type=Path, help="where all goes; what is there is removed")
    parser.add_argument("--formats", default="onnx,coreml,litert")
    parser.add_argument("--precisions", default="f32,f16,int8")
    given = parser.parse_args()
    for run in (given.teacher, given.student):
        if not run.is_dir():
            parser.error(
                f"{run} is no run folder; `make quickstart` trains runs/quickstart and runs/quickstart-student"
            )
    if given.out.exists():
        if not (given.out / MARK).is_file():
            parser.error(f"{given.out} is there, and no earlier demo wrote it; give a folder that may be removed")
        shutil.rmtree(given.out)
    given.out.mkdir(parents=True)
    (given.out / MARK).touch()
    spent: list[tuple[str, float]] = []
    with _timed("export", spent):
        for run in (given.student, given.teacher):
            folder = given.out / f"{run.name}-exported"
            _run("export", "--checkpoint", run, "--format", given.formats, "--precision", given.precisions, folder)
            _run("report", folder)
    with _timed("evaluate", spent):
        _run(
            "evaluate",
            given.teacher,
            given.student,
            "--suite",
            "offline",
            "--teacher",
            given.teacher,
            "--out",
            given.out,
        )
    with _timed("draw and index", spent):
        pictures, index = given.out / "pictures", given.out / "index"
        _draw(pictures)
        for run in (given.teacher, given.student):
            _run("search", "index", "--model", run, pictures, "--out", index)
    with _timed("serve and look", spent):
        _look(index, given.teacher, given.student, given.out)
    for what, seconds in [*spent, ("all", sum(seconds for _, seconds in spent))]:
        print(f"{what:16} {seconds:5.0f} s")


@contextlib.contextmanager
def _timed(what: str, spent: list[tuple[str, float]]) -> Iterator[None]:
    began = time.perf_counter()
    yield
    spent.append((what, time.perf_counter() - began))


def _run(*words: object) -> None:
    print("$ clip-jax", *words, flush=True)
    subprocess.run([*CLIP, *map(str, words)], check=True)


def _draw(folder: Path) -> None:
    """Named drawings by the hand that no training has seen, one a concept."""
    folder.mkdir()
    glyphs = Glyphs(GlyphsConfig(split="designers", size=SIDE, limit=PICTURES))
    for number in range(len(glyphs)):
        sample = glyphs[number]
        drawing, background = glyphs.colors(number)
        name = f"{glyphs.concept(number)}, {drawing} on {background}".replace("/", " ")
        Image.fromarray(np.asarray(sample.image)).save(folder / f"{name}.png")


def _look(index: Path, teacher: Path, student: Path, out: Path) -> None:
    words = ["search", "serve", index, "--model", teacher, "--model2", student, "--port", 0]
    with subprocess.Popen([*CLIP, *map(str, words)], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            print(line.strip(), flush=True)
            address = next(word for word in line.split() if word.startswith("http://"))
            _screenshots(address, out)
        finally:
            server.terminate()


def _screenshots(address: str, out: Path) -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None or importlib.util.find_spec("playwright") is None:
        print(
            "no picture of the page: it needs Chromium (apt-get install chromium) and pip install 'clip_jax[browser]'"
        )
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for number, (link, (width, height)) in enumerate(zip(QUERIES, (WIDE, PHONE, WIDE), strict=True)):
            tab = browser.new_page(viewport={"width": width, "height": height})
            tab.goto(address + link)
            tab.wait_for_selector("li img")
            tab.wait_for_load_state("networkidle")
            path = out / f"search-{number + 1}.png"
            tab.screenshot(path=path)
            tab.close()
            print(f"{path}: {link}")
        browser.close()


if __name__ == "__main__":
    main()
