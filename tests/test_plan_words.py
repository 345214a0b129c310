"""What `clip-jax plan` says of compiled steps, its exit codes and its JSON, with a compiler that only pretends."""

import dataclasses
import io
import json
from collections.abc import Callable

import jax
import pytest
from rich.console import Console

from clip_jax.cli import plan as command
from clip_jax.experiment import TrainConfig
from clip_jax.plan.chips import parse_pod
from clip_jax.plan.collectives import Collective
from clip_jax.plan.compiled import Compiled
from clip_jax.plan.fit import Trial, tried
from clip_jax.plan.words import one_line, print_trial, print_verdict, to_json
from clip_jax.sharding import make_mesh
from clip_jax.teachers import LiveTeacher

GB = 10**9
POD = parse_pod("h100:8")
CONFIG = TrainConfig(batch_size=4096)
GATHER = Collective(
    kind="all-gather", axes=("fsdp",), size=8, bytes=8 * GB, times=3, asynchronous=False, span=(8, 1), load=0.0
)
FIGURES = Compiled(
    kind="x",
    devices=8,
    mesh={"replica": 1, "data": 4, "fsdp": 2, "model": 1},
    seconds=1.0,
    parameters=2 * GB,
    optimizer=4 * GB,
    average=3 * GB,
    batch=GB // 8,
    products=8 * 10**14,
    temporaries=20 * GB,
    loss=5 * GB,
    code=GB // 4,
    hbm=335 * 10**9,
    collectives=(GATHER,),
)


def trials_of(fits: Callable[[TrainConfig], bool], config: TrainConfig = CONFIG, *, search: bool = True) -> list[Trial]:
    def compile_(config: TrainConfig, offers, pod) -> Compiled:
        mesh = dict(make_mesh(config.mesh, jax.devices()).shape)
        return dataclasses.replace(FIGURES, mesh=mesh, needed=0 if fits(config) else 99 * GB)

    return list(tried(config, {}, POD, compile_, search=search))


def said(function, *given) -> str:
    file = io.StringIO()
    function(*given, Console(file=file, width=200))
    return file.getvalue()


def rows(text: str) -> dict[str, str]:
    """The first figure of each row of a printed table, by what stands before it."""
    lines = [line.split("  ") for line in text.splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    return {line[0]: line[1] for line in cells if len(line) > 1}


def test_memory_and_times_as_printed():
    [trial] = trials_of(lambda _: True)
    found = rows(said(print_trial, trial, POD))
    assert found["parameters"] == "2.000"
    assert found["optimizer"] == "4.000"
    assert found["average"] == "3.000"
    assert found["batch"] == "0.125"
    assert found["temporaries"] == "20.000"
    assert found["activations, about"] == "13.000"  # 20 but for the gradients' 2 and the loss's 5
    assert (found["gradients, about"], found["loss, about"]) == ("2.000", "5.000")
    assert found["program"] == "100.000"  # TFLOP a device, of the table below the one of memory
    assert found["total"] == "29.375"
    assert found["there is"] == "72.000"  # nine tenths of 80
    assert found["products"] == f"{1e5 / 989.4:.1f}"
    assert found["wire"] == f"{3e3 * 7 / 450:.1f}"
    assert "all-gather  fsdp" in " ".join(said(print_trial, trial, POD).split("   "))


def test_memory_of_a_refused_program():
    [trial] = trials_of(lambda _: False, search=False)
    text = said(print_trial, trial, POD)
    found = rows(text)
    assert (found["temporaries"], found["total"]) == ("99.000", "99.000")
    assert "at least" in text
    assert "Time of a step" not in text


@pytest.mark.parametrize(
    ("fits", "search", "verdict"),
    [
        (lambda _: True, True, "fits h100:8"),
        (lambda _: False, False, "does not fit h100:8"),
        (
            lambda config: config.objective.form == "ring",
            True,
            "does not fit h100:8: try --config.objective.form=ring, which was compiled and fits",
        ),
        (
            lambda _: False,
            True,
            "none fits. The least, 99.000 GB a device, is with the config as it is; take more chips",
        ),
    ],
    ids=["fits", "no search", "another setting", "nothing"],
)
def test_verdicts(fits, search, verdict):
    trials = trials_of(fits, search=search)
    text = " ".join(said(print_verdict, trials, POD).split())
    assert text.startswith(verdict) or verdict in text
    assert to_json(trials, POD)["fits"] == (text == "fits h100:8")
    assert to_json(trials, POD)["try"] == (["--config.objective.form=ring"] if "try" in text else [])


def test_one_line():
    small, large = trials_of(lambda _: True)[0], trials_of(lambda _: False, search=False)[0]
    assert one_line(small, POD) == "the config as it is: 29.375 GB of 72.000 GB a device, fits"
    assert one_line(large, POD) == "the config as it is: at least 99.000 GB of 72.000 GB a device, does not fit"


def test_live_teachers_are_not_all_counted_and_the_verdict_says_so():
    [trial] = trials_of(lambda _: True, dataclasses.replace(CONFIG, teachers={"t": LiveTeacher(model="m")}))
    taught = dataclasses.replace(trial, compiled=dataclasses.replace(trial.compiled, teachers=GB))
    assert to_json([taught], POD)["not_counted"] == ["live teachers' activations"]
    assert said(print_verdict, [taught], POD).strip() == "fits h100:8; live teachers' activations are not counted"
    found = rows(said(print_trial, taught, POD))
    assert (found["live teachers' weights"], found["total"]) == ("1.000", "30.375")
    assert to_json([trials_of(lambda _: True)[0]], POD)["not_counted"] == []


@pytest.mark.parametrize(("needed", "code"), [(0, 0), (99 * GB, 1)])
def test_exit_codes_and_json(monkeypatch, tmp_path, needed, code):
    monkeypatch.setattr(command, "compiled_for", lambda *_: dataclasses.replace(FIGURES, needed=needed))
    monkeypatch.setattr(command, "prepare", lambda: None)
    file = tmp_path / "plan.json"
    given = ["plan", "--config", "tests/small_config.py", "--topology", "h100:8", "--nosearch", "--json", str(file)]
    assert command.main(given) == code
    found = json.loads(file.read_text())
    assert (found["fits"], found["memory"], found["try"]) == (not needed, 0.9 * 80e9, [])
    [trial] = found["trials"]
    assert trial["total"] == (needed or 29_375_000_000)
    assert trial["temporaries"] == {"activations": 13 * GB, "gradients": 2 * GB, "loss": 5 * GB}
    assert trial["compiled"]["collectives"][0]["sent"] == 3 * 7 * GB
    assert (trial["times"] is None) == bool(needed)
