"""clip-jax embed as people type it: from a model and data to a store, killed and gone on with, on one process or two."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import clip_jax
from clip_jax import __main__ as entry
from clip_jax.data.teacher_manifest import UNFINISHED
from clip_jax.data.teacher_shards import CHECKSUM, shard_name
from clip_jax.data.teacher_store import TeacherStore
from clip_jax.data.webdataset import WebDataset, WebDatasetConfig
from tests.data.test_clip_retrieval import layout, row, tar
from tests.small_teacher import write_teacher

ROOT = Path(__file__).parents[2]
CONFIG = """
from clip_jax.data.glyphs import GlyphsConfig
from configs.base import get_config as base, part

def get_config(limit="40"):
    config = base("tiny")
    config.source = part(GlyphsConfig(split="validation", limit=int(limit), size=16))
    return config
"""
# Runs the command, and kills it with SIGKILL when the third shard is written and has not got its name yet.
KILLED = f"""
import os, signal
really = os.replace
def replace(source, target):
    if os.path.basename(target) == {shard_name(2)!r}:
        os.kill(os.getpid(), signal.SIGKILL)
    really(source, target)
os.replace = replace
from clip_jax.__main__ import main
main()
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embed")
    write_teacher(folder / "teacher")
    (folder / "data.py").write_text(CONFIG)
    return folder


def arguments(place: Path, store: Path, *more: str, data: str = "data.py:40") -> list[str]:
    given = ["--model", str(place / "teacher"), "--data", str(place / data), "--store", str(store)]
    return ["embed", *given, "--rows_per_shard=8", "--batch_size=8", *more]


def run(monkeypatch: pytest.MonkeyPatch, given: list[str]) -> int:
    monkeypatch.setattr(sys, "argv", ["clip-jax", *given])
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as exit_info:
        entry.main()
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        assert run(patch, arguments(place, place / "whole", "--views=2")) == 0
    return place / "whole"


def kill_at_the_third_shard(place: Path, store: Path) -> None:
    """Embeds on one process, which dies with two shards whole and one half written."""
    command = [sys.executable, "-c", KILLED, *arguments(place, store, "--views=2")]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"XLA_FLAGS": ""}, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_killed_and_called_again_the_store_is_the_same_byte_by_byte(
    whole: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    kill_at_the_third_shard(place, store)
    left = {path.name for path in store.iterdir()}
    whole_ones = {f"shard-0000{number}{ending}" for number in range(2) for ending in (".safetensors", CHECKSUM)}
    assert left == {".lock", UNFINISHED, *whole_ones, f".{shard_name(2)}.draft"}
    assert run(monkeypatch, arguments(place, store, "--views=2")) == 0
    said = capsys.readouterr()
    assert "into 5 shards, 2 of which are there" in said.err
    assert "is finished: 40 samples with 80 images and 264 captions" in said.out
    assert "24 of them now" in said.out
    assert content(store) == content(whole)  # of one device and of eight
    assert run(monkeypatch, arguments(place, store, "--views=2")) == 0
    assert "is finished already: 40 samples" in capsys.readouterr().out
    assert run(monkeypatch, arguments(place, store, "--views=1")) == 2
    assert "views.count: 2 and 1" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("killed", "shards"), [(False, 3), (True, 2)])
def test_two_processes_write_the_same_store(
    killed: bool, shards: int, whole: Path, place: Path, tmp_path: Path
) -> None:
    """From nothing, or going on where one process was killed: `shards` are the first one's of those that are missing."""
    if killed:
        kill_at_the_third_shard(place, tmp_path / "store")
    launcher = [sys.executable, "launch/local.py", "--processes", "2", "--command", "embed", "--"]
    done = subprocess.run(
        [*launcher, *arguments(place, tmp_path / "store", "--views=2")[1:]],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert f"This process embeds {shards} shards" in done.stdout
    assert done.stdout.count("is finished: 40 samples") == 1
    if killed:
        assert "into 5 shards, 2 of which are there" in done.stdout
    assert content(tmp_path / "store") == content(whole)


def test_tars_and_embeddings_of_clip_retrieval(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    keys = [f"{i:09d}" for i in range(5)]
    tar(tmp_path / "data" / "00000.tar", keys)
    both = layout(tmp_path / "retrieval", [[row(key) for key in keys]])
    given = ["--name=pictures"]
    data = str(tmp_path / "data" / "*.tar")
    assert run(monkeypatch, arguments(place, tmp_path / "store", *given, data=data)) == 0
    imported = [*given, f"--from_clip_retrieval={tmp_path / 'retrieval'}"]
    assert run(monkeypatch, arguments(place, tmp_path / "imported", *imported, data=data)) == 0
    source = WebDataset(WebDatasetConfig(urls=data, name="pictures"))
    made, taken = TeacherStore(tmp_path / "store"), TeacherStore(tmp_path / "imported")
    made.check_source(source)
    rows = taken.rows(np.array([source.uid(i) for i in range(5)], np.uint64))
    captions = [f"caption of {key}" for key in keys]
    np.testing.assert_allclose(taken.image(rows), both[0].astype(np.float32), atol=2e-3)
    np.testing.assert_allclose(taken.text(rows, captions), both[1].astype(np.float32), atol=2e-3)
    model = clip_jax.load(place / "teacher")
    np.testing.assert_allclose(made.text(rows, captions), model.encode_text(captions), atol=0.03)
    assert taken.manifest.teacher == made.manifest.teacher
    capsys.readouterr()
    assert run(monkeypatch, arguments(place, tmp_path / "x", *imported, "--views=1", data=data)) == 2
    assert "clip-retrieval's embeddings are of whole images; use --views 0" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, ["embed", "--help"]) == 0
    said = capsys.readouterr().out
    assert "usage: clip-jax embed --model M --data D --store DIR" in said
    assert "--from_clip_retrieval" in said


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "give --model, --data and --store"),
        (["--model=m", "--data=d", "--store=s"], "--data d is no config"),
        (["--model=m", "--data=a/*.tar", "--store=s"], "are tars; give --name too"),
        (["--model=m", "--data=tests/small_config.py", "--store=s", "--name=n"], "--name n is for tars"),
        (["--model=m", "--data=absent.py", "--store=s"], "no config absent.py"),
        (["--model=m", "--data=tests/small_config.py", "--store=s"], "m does not exist; give a run folder"),
        (
            ["--model=m", "--data=tests/small_config.py", "--store=s", "--views=-1"],
            "views is -1; it must be at least 0",
        ),
        (["--model=m", "--data=d", "--store=s", "surplus"], "unexpected .*surplus"),
        (["--model=m", "--data=d", "--store=s", "--dtype=float16"], "dtype"),
    ],
)
def test_errors_say_what_to_do(
    given: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, ["embed", *given]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not (ROOT / "s").exists()
