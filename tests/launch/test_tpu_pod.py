"""launch/tpu_pod.sh and what it runs on the workers, against a gcloud whose workers are folders of this machine."""

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "launch/tpu_pod.sh"
TRAIN = ["train", "--config", "configs/quickstart.py", "--workdir", "/mnt/my runs/it's one", "--config.source.name=a b"]

# Instead of a Python with JAX: says what it was told, then does what $STUB/fates has for this start of this worker.
TRAINING = """#!/bin/bash
printf '%s\\n' "$@" >"$STUB/arguments.$STUB_WORKER"
n=$(cat "$STUB/starts.$STUB_WORKER" 2>/dev/null || echo 0)
echo $((n + 1)) >"$STUB/starts.$STUB_WORKER"
fate=$(sed -n "$((n + 1))p" "$STUB/fates")
echo "start $((n + 1)) of $STUB_WORKER: $fate"
case $fate in
    taken) sleep 0.5; printf SUSPENDED >"$STUB/pod" ;;
    told) trap 'exit 76' TERM; while true; do sleep 0.1; done ;;
    *) exit "$fate" ;;
esac
"""
# Instead of uv: makes that Python.
UV = """#!/bin/bash
if [[ $1 == venv ]]; then mkdir -p .venv/bin && cp "$STUB/training" .venv/bin/python; fi
echo "$PWD uv $*" >>"$STUB/installs"
"""


class Pod:
    """The script with a gcloud of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._file("bin/gcloud", f'#!/bin/sh\nexec {sys.executable} {ROOT}/tests/launch/gcloud_stub.py "$@"\n')
        self._file("bin/uv", UV)
        self._file("training", TRAINING)
        self._environment = os.environ | {
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            **{
                "STUB": str(folder),
                "NAME": "pod",
                "ZONE": "here",
                "TYPE": "v5litepod-8",
                "RUNTIME": "v2",
                "POLL": "0.1",
            },
            "MOUNT": 'echo "$PWD mounted" >>"$STUB/installs"',
        }

    def _file(self, name: str, text: str) -> None:
        file = self.folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        file.chmod(file.stat().st_mode | stat.S_IXUSR)

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([str(SCRIPT), *arguments], env=self._environment | more, cwd=self.folder, **pipes)

    def run(self, *arguments: str, code: int = 0, **more: str) -> str:
        process = self.start(*arguments, **more)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == code, output
        return output

    def fates(self, *fates: str) -> None:
        self._file("fates", "\n".join(fates))

    def calls(self) -> list[list[str]]:
        lines = (self.folder / "calls.jsonl").read_text().splitlines()
        return [json.loads(line)[3:] for line in lines]

    def actions(self) -> list[str]:
        return [call[0] for call in self.calls() if call[0] in ("create", "delete", "scp")]


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path)


def test_a_pod_is_made_and_a_run_reaches_all_workers_with_its_arguments_whole(pod: Pod) -> None:
    pod.fates("0")
    (pod.folder / "states").write_text("WAITING_FOR_RESOURCES PROVISIONING")
    output = pod.run(*TRAIN)
    assert "pod: WAITING_FOR_RESOURCES" in output
    assert "complete" in output
    create = next(call for call in pod.calls() if call[0] == "create")
    assert create[1:] == [
        *("pod", "--node-id=pod", "--accelerator-type=v5litepod-8", "--runtime-version=v2"),
        *("--spot", "--zone=here", "--quiet"),
    ]
    for worker in ("w0", "w1"):
        told = (pod.folder / f"arguments.{worker}").read_text().splitlines()
        assert told == ["-m", "clip_jax", "train", "--distributed=auto", "--stopped_code=76", *TRAIN[1:]]
        assert (pod.folder / worker / "clip_jax/clip_jax/train.py").read_bytes() == (
            ROOT / "clip_jax/train.py"
        ).read_bytes()
        assert f"{pod.folder}/{worker}/clip_jax mounted" in (pod.folder / "installs").read_text()
    assert not (pod.folder / "w0/clip_jax/.venv/lib").exists()


def test_a_pod_that_was_taken_away_is_made_again_and_the_run_goes_on(pod: Pod) -> None:
    pod.fates("taken", "0")
    output = pod.run(*TRAIN)
    assert pod.actions() == ["create", "scp", "delete", "create", "scp"]
    assert "the workers were taken away" in output
    assert "start 2 of w0: 0" in output
    assert ["delete", "pod", "--force", "--zone=here", "--quiet"] in pod.calls()


def test_a_pod_that_works_is_reused_and_a_run_on_it_is_only_followed(pod: Pod) -> None:
    pod.fates("told", "0")
    first = pod.start(*TRAIN)
    limit = time.monotonic() + 30
    while not (pod.folder / "starts.w1").exists() and time.monotonic() < limit:
        time.sleep(0.05)
    first.kill()  # the laptop is closed
    first.communicate()
    assert pod.run("status").splitlines()[-1] == "ACTIVE running"
    second = pod.start(*TRAIN)
    time.sleep(1)
    pod.run("stop")
    output, _ = second.communicate(timeout=30)
    assert "start 1 of w0: told" in output
    assert "stopped and saved" in output
    assert second.returncode == 0
    assert pod.run("status").splitlines()[-1] == "ACTIVE told"
    assert "complete" in pod.run(*TRAIN)
    assert pod.actions() == ["create", "scp", "scp"]
    pod.run("delete")
    assert pod.run("status").splitlines()[-1] == "NONE lost"


def test_crashes_are_counted_and_a_wrong_config_is_not_tried_again(pod: Pod) -> None:
    pod.fates("1", "137", "2")
    output = pod.run(*TRAIN, code=2)
    assert "exit code 1, failure 1 of 10" in output
    assert "exit code 137, failure 2 of 10" in output
    assert "not restarted" in output
    assert pod.actions() == ["create", "scp", "scp", "scp"]
    pod.fates(*["1"] * 9)
    assert "failure 2 of 2" in pod.run(*TRAIN, code=1, MAX_FAILURES="2")


def test_a_request_that_is_refused_ends_it_and_an_old_one_is_replaced(pod: Pod) -> None:
    (pod.folder / "states").write_text("FAILED")
    assert "refused; why" in pod.run(*TRAIN, code=1)
    (pod.folder / "states").write_text("FAILED")
    pod.fates("0")
    assert "complete" in pod.run(*TRAIN, SLICES="2", CREATE="--reserved --network=my-net")
    assert pod.actions() == ["create", "delete", "create", "scp"]
    create = [call for call in pod.calls() if call[0] == "create"][-1]
    assert create[2:4] == ["--node-count=2", "--node-prefix=pod"]
    assert create[6:8] == ["--reserved", "--network=my-net"]


def test_without_a_name_or_an_action_it_says_what_is_missing(pod: Pod) -> None:
    assert "NAME" in pod.run(*TRAIN, code=1, NAME="")
    assert "usage:" in pod.run(code=2)
