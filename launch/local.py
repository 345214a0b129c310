"""Starts a command as several processes on this machine, as a pod would start it on several hosts, and starts it again.

usage: python launch/local.py --processes 4 [--devices 1] [--restarts 3] -- --config configs/quickstart.py --workdir runs/four
       python launch/local.py --processes 2 --command evaluate -- runs/two

--devices: virtual CPU devices a process. --restarts: of a training, in a row without a new checkpoint; each goes on from the
newest one. When one process ends abnormally the others are ended at once. All output is shown, each line with its
process's number. SIGTERM and Ctrl-C are passed on, so that a run saves and ends; SIGTERM to one process alone, as where a
host is taken away, saves on all, and the run goes on with a new start. The exit code is that of the first process that
failed (128 + n for signal n), 0 where none did; 2, a mistake in the command, is never tried again.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

POLL = 0.05  # seconds between two looks at the processes
STOPPED = 76  # exit code of a training that was told to stop, and has saved


def main() -> int:
    """Exit code of the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--restarts", type=int, default=3)
    parser.add_argument("--command", choices=("train", "evaluate", "embed"), default="train", help="of clip-jax")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the command, after --")
    args, unknown = parser.parse_known_args()
    if unknown:
        parser.error(f"{' '.join(unknown)}: not a flag of this launcher; flags of clip-jax come after --")
    for name in ("processes", "devices"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)}: at least 1")
    arguments = [argument for argument in args.arguments if argument != "--"]
    workdir = _workdir(arguments)
    group = Group()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: group.stop())
    tries, reached = 0, _newest_step(workdir)
    command = [sys.executable, "-m", "clip_jax", args.command, *arguments]
    if args.command == "train":
        command.append(f"--stopped_code={STOPPED}")
    while True:
        code = group.run(command, args.processes, args.devices)
        if code == STOPPED and group.stopping:
            return 0
        if code in (0, 2) or group.stopping or args.command != "train":
            return code
        now = _newest_step(workdir)
        tries = tries + 1 if now <= reached else 1
        reached = now
        if tries > args.restarts:
            _say(f"exit code {code}; given up after {args.restarts} restarts without a checkpoint after step {now}")
            return code
        _say(f"exit code {code}; starting again from step {now} ({tries} of {args.restarts} without a new checkpoint)")


class Group:
    """The processes of one start. stopping: it was told to end."""

    def __init__(self) -> None:
        self.stopping = False
        self._running: list[subprocess.Popen[str]] = []

    def stop(self) -> None:
        """Tells all to save and end."""
        self.stopping = True
        for process in self._running:
            process.send_signal(signal.SIGTERM)

    def run(self, command: list[str], processes: int, devices: int) -> int:
        """Starts all, shows what they print, and returns the code of the first that failed, all others ended."""
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONUNBUFFERED": "1"}
        # Collectives that wait keep threads of XLA's pool: where none is left, all wait for ever.
        environment.setdefault("PJRT_NPROC", str(max(8 * devices, os.cpu_count() or 1)))
        address = f"127.0.0.1:{_free_port()}"
        self._running = []
        for process in range(processes):
            own = ["--distributed", address, "--processes", str(processes), "--process", str(process)]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            self._running.append(subprocess.Popen([*command, *own], env=environment, **pipes))
        if self.stopping:  # told so while they were started
            self.stop()
        readers = [threading.Thread(target=_show, args=pair) for pair in enumerate(self._running)]
        for reader in readers:
            reader.start()
        code = self._first_failure()
        for process in self._running:
            if code != STOPPED:
                process.kill()
        for reader in readers:
            reader.join()
        return code

    def _first_failure(self) -> int:
        while True:
            codes = [process.poll() for process in self._running]
            ended = [code for code in codes if code is not None]
            for number, code in enumerate(codes):
                if code and code != STOPPED:
                    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
                    _say(f"process {number} of {len(codes)} ended {how}")
                    return 128 - code if code < 0 else code
            if len(ended) == len(codes):
                return max(ended)  # 0, or STOPPED
            time.sleep(POLL)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _workdir(arguments: list[str]) -> Path | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--workdir", type=Path)
    return parser.parse_known_args(arguments)[0].workdir


def _newest_step(workdir: Path | None) -> int:
    found = (workdir / "checkpoints").glob("[0-9]*") if workdir else ()
    return max((int(folder.name) for folder in found if folder.name.isdecimal()), default=0)


def _show(number: int, process: subprocess.Popen[str]) -> None:
    assert process.stdout
    for line in process.stdout:
        print(f"[{number}] {line}", end="", flush=True)


def _say(line: str) -> None:
    print(f"[launch] {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
