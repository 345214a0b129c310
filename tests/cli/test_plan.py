"""clip-jax plan, as people type it."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from clip_jax import __main__ as entry
from clip_jax.plan.child import topology_options
from clip_jax.plan.chips import parse_pod

SMALL = str(Path(__file__).parents[1] / "small_config.py")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["clip-jax", "plan", *arguments])
    with pytest.raises(SystemExit) as exit_info:
        entry.main()
    code = exit_info.value.code
    assert isinstance(code, int)
    return code


def test_a_gpu_pod_by_the_program_for_cpu_devices(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")  # a quick compile of the same program
    file = tmp_path / "plan.json"
    assert run(monkeypatch, "--config", SMALL, "--config.mesh.fsdp=2", "--topology", "h100:8", "--json", str(file)) == 0
    said = capsys.readouterr().out
    for expected in (
        "Memory a device",
        "loss, about",
        "virtual CPU devices",
        "Collectives a step",
        "MFU",
        "fits h100:8",
    ):
        assert expected in said
    found = json.loads(file.read_text())
    [trial] = found["trials"]
    figures = trial["compiled"]
    assert found["fits"]
    assert figures["mesh"] == {"replica": 1, "data": 4, "fsdp": 2, "model": 1}
    assert figures["devices"] == 8
    assert figures["batch"] == 16 // 8 * (16 * 16 * 3 + 4 * 16 + 4)  # pixels, tokens, the count of replaced samples
    whole = 4 * 49408 * 32
    assert whole / 2 < figures["parameters"] < whole  # the token embedding is cut in two
    assert figures["average"] == figures["parameters"]
    assert {tuple(one["axes"]) for one in figures["collectives"]} >= {("data",), ("fsdp",), ("data", "fsdp")}
    assert trial["times"]["step"] >= trial["times"]["bound"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--topology", "h100:8"), "give --config and --topology"),
        (("--config", SMALL), "give --config and --topology"),
        (("--config", SMALL, "--topology", "h1000:8"), "no chip 'h1000'; did you mean 'h100'"),
        (("--config", SMALL, "--topology", "h100:4096"), "plan for h100:1024 with the same batch a GPU"),
        (("--config", SMALL, "--topology", "h100:8", "--config.batch_size=20"), "use a multiple of 8"),
    ],
)
def test_what_cannot_be_planned(monkeypatch, capsys, arguments, message):
    assert run(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err


def test_without_libtpu_it_says_how_to_install_it(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "libtpu" else find(name, *rest)
    )
    assert run(monkeypatch, "--config", SMALL, "--topology", "v5e:4x4") == 2
    assert 'pip install "clip_jax[plan]"' in capsys.readouterr().err


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason='needs libtpu: pip install "clip_jax[plan]"'
)


def test_what_libtpu_is_told():
    assert topology_options(parse_pod("v5p:2x2x1")) == {}
    assert topology_options(parse_pod("v4:2x2x1")) == {"chip_config_name": "megacore"}
    assert topology_options(parse_pod("v5e:1x1")) == {"chips_per_host_bounds": (1, 1, 1)}


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize(
    ("topology", "kind", "devices"),
    [
        ("v4:2x2x1", "TPU v4", 4),
        ("v5e:1x1", "TPU v5 lite", 1),
        ("v5p:2x2x1", "TPU v5", 4),
        ("v6e:2x2", "TPU v6 lite", 4),
        ("tpu7x:2x2x1", "TPU7x", 8),
    ],
)
def test_every_generation_of_tpu(monkeypatch, capsys, topology, kind, devices):
    assert run(monkeypatch, "--config", SMALL, "--topology", topology, "--json=-", "--nosearch") == 0
    found = json.loads(capsys.readouterr().out)
    figures = found["trials"][0]["compiled"]
    assert (figures["kind"], figures["devices"]) == (kind, devices)
    assert found["memory"] * devices == parse_pod(topology).chip.memory * parse_pod(topology).size
    assert min(figures["hbm"], figures["temporaries"]) > 0


@pytest.mark.slow
@needs_libtpu
def test_a_tpu_pod_by_its_own_compiler(monkeypatch, capsys):
    assert run(monkeypatch, "--config", SMALL, "--topology", "v5e:4x4", "--json=-") == 0
    out = capsys.readouterr()
    found = json.loads(out.out)
    figures = found["trials"][0]["compiled"]
    assert (figures["kind"], figures["devices"]) == ("TPU v5 lite", 16)
    assert min(figures["cycles"], figures["hbm"], figures["temporaries"]) > 0
    assert "fits v5e:4x4" in out.err
    assert run(monkeypatch, "--config", SMALL, "--topology", "v5e:5x5") == 2
    assert "there is no such slice" in capsys.readouterr().err
