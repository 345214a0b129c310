"""A Slurm of one node, with its daemons, in a folder of its own: Debian's slurm-wlm and munge, without systemd."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
CONFIG = """
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
KillWait=60
SlurmdParameters=config_overrides
NodeName=localhost CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """The programs that this machine lacks, with spaces between."""
    return " ".join(program for program in PROGRAMS if not shutil.which(program, path=_path()))


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Yields the environment in which sbatch and its like find it."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)  # munged trusts no folder that others may write
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    config = folder / "slurm.conf"
    fields = {"controller": _free_port(), "node": _free_port(), "user": getpass.getuser()}
    config.write_text(CONFIG.format(folder=folder, **fields))
    environment = os.environ | {"SLURM_CONF": str(config), "PATH": _path()}
    files = {name: f"--{name}-file={folder}/munge.{name}" for name in ("key", "log", "pid", "seed")}
    munged = ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files.values()]
    with contextlib.ExitStack() as stack:
        for command in (munged, ["slurmctld", "-D", "-i"], ["slurmd", "-D", "-N", "localhost"]):
            stack.enter_context(_running(command, environment, folder))
            time.sleep(1)
        _wait_until_idle(environment, folder)
        yield environment


@contextlib.contextmanager
def _running(command: list[str], environment: dict[str, str], folder: Path) -> Iterator[None]:
    with (folder / f"{command[0]}.out").open("w") as output:
        daemon = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            daemon.terminate()
            daemon.wait(60)


def _wait_until_idle(environment: dict[str, str], folder: Path) -> None:
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        shown = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True)
        if shown.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    logs = "\n".join(file.read_text()[-2000:] for file in [*folder.glob("*.log"), *folder.glob("*.out")])
    raise RuntimeError(f"no node of Slurm came up in 60 s: {shown.stdout}{shown.stderr}\n{logs}")
