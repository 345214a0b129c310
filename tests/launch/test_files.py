"""Shell scripts pass shellcheck; YAML fits the schema of what reads it, and says what our processes need."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCHEMAS = Path(__file__).parent / "data"
jsonschema = pytest.importorskip("jsonschema", reason='jsonschema is not installed: pip install -e ".[test]"')


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((LAUNCH / name).read_text())


def errors(file: dict[str, Any], schema: str) -> list[str]:
    checker = jsonschema.Draft202012Validator(json.loads((SCHEMAS / schema).read_text()))
    return [f"{error.json_path}: {error.message}" for error in checker.iter_errors(file)]


@pytest.mark.parametrize(
    ("name", "schema"), [("jobset.yaml", "jobset.schema.json"), ("skypilot.yaml", "skypilot.schema.json")]
)
def test_yaml_fits_the_schema_of_its_reader(name: str, schema: str) -> None:
    assert errors(read(name), schema) == []


def test_a_misspelt_field_does_not_fit() -> None:
    jobset, task = read("jobset.yaml"), read("skypilot.yaml")
    jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["backOffLimit"] = 0
    jobset["spec"]["failurePolicy"]["rules"][0]["action"] = "Restart"
    assert len(errors(jobset, "jobset.schema.json")) == 2
    task["resources"]["job_recovery"]["recover_on_exit_codes"] = [1000]
    task["node_number"] = 4
    assert len(errors(task, "skypilot.schema.json")) == 2


def test_the_jobset_restarts_whole_and_is_never_complete_by_a_preemption() -> None:
    job = read("jobset.yaml")["spec"]["replicatedJobs"][0]["template"]["spec"]
    train = job["template"]["spec"]["containers"][0]
    code = next(word.partition("=")[2] for word in train["command"] if word.startswith("--stopped_code="))
    assert int(code) in job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == train["name"]
    assert job["parallelism"] == job["completions"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # the API server takes a podFailurePolicy with no other
    mounted = {mount["name"] for mount in train["volumeMounts"]}
    assert mounted == {volume["name"] for volume in job["template"]["spec"]["volumes"]}


def test_skypilot_nodes_join_and_arguments_keep_their_spaces(tmp_path: Path) -> None:
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    python.chmod(0o755)
    node = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2\n", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    environment = {"PATH": "/usr/bin:/bin", "ARGUMENTS": "--workdir '/runs/a b'"} | node
    task = read("skypilot.yaml")
    done = subprocess.run(
        ["bash", "-c", task["run"]], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    code = task["resources"]["job_recovery"]["recover_on_exit_codes"][0]
    flags = [f"--stopped_code={code}", "--distributed=10.0.0.1:8476", "--processes=2", "--process=1"]
    assert done.stdout.splitlines() == ["-m", "clip_jax", "train", *flags, "--workdir", "/runs/a b"]


def test_shell_scripts_pass_shellcheck(tmp_path: Path) -> None:
    beside = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip('shellcheck is not installed: pip install -e ".[test]"')
    scripts = [*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")]
    for part in ("setup", "run"):
        scripts.append(tmp_path / f"{part}.sh")
        scripts[-1].write_text("#!/usr/bin/env bash\n" + read("skypilot.yaml")[part])
    assert len(scripts) == 5
    done = subprocess.run([shellcheck, *map(str, scripts)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["tpu_pod.sh", "tpu_worker.sh", "slurm.sbatch", "jobset.yaml", "skypilot.yaml"])
def test_each_file_tells_its_usage_on_top(name: str) -> None:
    top = (LAUNCH / name).read_text()[:1500]
    assert re.search("^# usage: ", top, re.M)
