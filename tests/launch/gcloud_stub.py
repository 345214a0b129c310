"""A `gcloud compute tpus queued-resources` of two workers, each a folder: what is copied and run there is so for real.

Its folder ($STUB) holds calls.jsonl (all arguments), pod (the state, where there is a pod), states (those that the next
looks will find, before ACTIVE), w0 and w1 (the workers' homes).
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

STUB = Path(os.environ["STUB"])


def main(arguments: list[str]) -> int:
    """Exit code, as gcloud's."""
    with (STUB / "calls.jsonl").open("a") as calls:
        print(json.dumps(arguments), file=calls)
    assert arguments[:3] == ["compute", "tpus", "queued-resources"], arguments
    action, rest = arguments[3], arguments[4:]
    flags = dict(word[2:].split("=", 1) for word in rest if word.startswith("--") and "=" in word)
    pod, states = STUB / "pod", STUB / "states"
    homes = [STUB / f"w{n}" for n in range(2)]
    if action == "create":
        assert not pod.exists(), "it exists"
        pod.write_text("ACTIVE")
        for home in homes:
            home.mkdir()
        return 0
    if not pod.exists():
        print(f"ERROR: (gcloud.{action}) NOT_FOUND: Resource 'x' was not found", file=sys.stderr)
        return 1
    if action == "describe":
        waiting = states.read_text().split() if states.exists() else []
        states.write_text(" ".join(waiting[1:]))
        print(waiting[0] if waiting else pod.read_text())
    elif action == "delete":
        pod.unlink()
        for home in homes:
            shutil.rmtree(home)
    elif pod.read_text() != "ACTIVE":
        print("Using ssh batch size of 1.")
        return 255  # as ssh, where nobody answers
    elif action == "scp":
        source, target = rest[:2]
        for home in homes:
            shutil.copy(source, home / target.partition(":")[2])
    elif action == "ssh":
        print("Using ssh batch size of 1.")
        for home in homes if flags["worker"] == "all" else homes[:1]:
            environment = os.environ | {"HOME": str(home), "STUB_WORKER": home.name}
            done = subprocess.run(["bash", "-c", flags["command"]], cwd=home, env=environment)
            if done.returncode:
                return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
