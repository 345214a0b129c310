"""What people type, and what they are told when it cannot work."""

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clip_jax import __main__ as entry
from clip_jax.cli.configs import to_config_dict, to_dataclass
from clip_jax.experiment import Plan
from clip_jax.models.presets import preset

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(
    path
    for path in (ROOT / "configs").glob("*.py")
    if not path.name.startswith(("__init__", "distill", "quickstart_student"))
)
SMALL = str(ROOT / "tests" / "small_config.py")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["clip-jax", *arguments])
    with pytest.raises(SystemExit) as exit_info:
        entry.main()
    code = exit_info.value.code
    assert isinstance(code, int)
    return code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tran",), r"no command 'tran'; there are train, .* Did you mean 'train'\?"),
        (("train",), "give --config and --workdir"),
        (("train", "--config", "configs/absent.py", "--workdir", "x"), "absent.py"),
        (
            ("train", "--config", SMALL, "--workdir", "x", "--config.optm.lr=1"),
            r": no key 'optm'; did you mean 'optim'\?$",
        ),
        (
            ("train", "--config", SMALL, "--workdir", "x", "--config.optim.lrr=1"),
            r": no key 'lrr'; did you mean 'lr'\?$",
        ),
        (("train", "--config", SMALL, "--workdir", "x", "--config.zzzzzz=1"), ": no key 'zzzzzz'$"),
        (
            ("train", "--config", SMALL, "--workdir", "x", "--config.optim.eps=0.0"),
            "optim.eps is 0.0; it must be above 0",
        ),
        (
            ("train", "--config", SMALL, "--workdir", "x", "--config.model.text_cfg.heads=0"),
            "text_cfg.heads is 0; it must be at least 1",
        ),
        (("train", "--config", SMALL, "--workdir", "x", "--processes=2"), "go with --distributed HOST:PORT"),
        (("evaluate", "x", "--processes=2"), "go with --distributed HOST:PORT"),
        (
            ("evaluate", "x", "--distributed=localhost:1", "--processes=2", "--process=2"),
            "--process 2 of --processes 2; they count from 0",
        ),
        (("train", "--config", SMALL, "--workdir", "x", "--config.optim.lr=fast"), "fast"),
        (("train", "--config", SMALL, "--workdir", "x", "--wrkdir=y"), "wrkdir"),
        (("train", "--config", SMALL, "--workdir", "x", "surplus"), "unexpected .*surplus"),
        (("train", "--config", SMALL, "--workdir", "x", "--config.batch_size=12"), "does not split over 8 devices"),
        (
            ("train", "--config", SMALL, "--workdir", "x", "--config.optim.name=adam"),
            r"'adam'; allowed are 'adamw', .*did you mean",
        ),
        (("train", "--config", SMALL, "--workdir", "x", "--config.source.split=trian"), "trian"),
        (
            ("train", "--config", "configs/base.py:ViT-B-23", "--workdir", "x"),
            "unknown model 'ViT-B-23'; did you mean 'ViT-B-32'",
        ),
        (("evaluate",), "give one run folder, or several"),
        (("evaluate", "/nonexistent"), "is no run folder"),
        (("report", "/nonexistent"), "nonexistent"),
    ],
)
def test_errors_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(ROOT)
    assert run(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "Traceback" not in error
    assert not (ROOT / "x").exists()


def _calls_c(_: list[str]) -> int:
    return int("no number")  # raised by a function in C, which has no frame: the last frame is this one


def _raises(_: list[str]) -> int:
    raise ValueError(
        "a message for users",
    )


def test_errors_of_others_keep_their_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(entry, "__file__", str(Path(__file__).parent / "__main__.py"))  # this file becomes "ours"
    monkeypatch.setattr("clip_jax.cli.report.main", _raises)
    assert run(monkeypatch, "report") == 2
    assert capsys.readouterr().err == "clip-jax report: a message for users\n"
    monkeypatch.setattr("clip_jax.cli.report.main", _calls_c)
    with pytest.raises(ValueError, match="no number"):
        entry.main()


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(("goals", "said"), [((), "quickstart"), (("test",), "test")])
def test_make_with_an_old_python_names_what_to_type(tmp_path: Path, goals: tuple[str, ...], said: str) -> None:
    old = f"{sys.executable} -c 'import sys; sys.version_info = (3, 10); exec(sys.argv[2])'"
    done = subprocess.run(
        ["make", *goals, f"PYTHON={old}", f"VENV={tmp_path}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode
    assert f"Try: make {said} PYTHON=python3.12" in done.stderr


@pytest.mark.parametrize(
    "arguments", [(), ("--help",), ("train", "--help"), ("evaluate", "--help"), ("report", "--help")]
)
def test_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    assert run(monkeypatch, *arguments) == (0 if arguments else 2)
    assert "usage: clip-jax" in capsys.readouterr().out


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_config_builds_and_is_short(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert len(file.read_text().splitlines()) <= 60
    Plan(to_dataclass(importlib.import_module(f"configs.{file.stem}").get_config()))


@pytest.mark.parametrize(
    "file",
    [pytest.param(file, id=file.stem, marks=() if file.stem == "quickstart" else pytest.mark.slow) for file in CONFIGS],
)
def test_every_config_says_what_it_would_do(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "200")
    assert run(monkeypatch, "train", "--config", str(file), "--dry_run") == 0
    shown = capsys.readouterr().out
    for expected in (
        "Parameters",
        "visual/blocks/attn/qkv/kernel",
        "Memory a device",
        "optimizer",
        "Schedule",
        "learning rate",
    ):
        assert expected in shown


def test_config_dict_round_trip() -> None:
    config = to_dataclass(__import__("configs.base", fromlist=["get_config"]).get_config("ViT-L-14-quickgelu"))
    assert config.model == preset("ViT-L-14-quickgelu")
    assert to_dataclass(to_config_dict(config)) == config
    Plan(config)
