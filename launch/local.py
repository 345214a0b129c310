"""Starts a command as several processes on this machine, as a pod would start it on several hosts.

usage: python launch/local.py --processes 2 [--devices 1] -- --config configs/quickstart.py --workdir runs/two
       python launch/local.py --processes 2 --command evaluate -- runs/two

--devices: virtual CPU devices a process. All output is shown, each line with its process's number; the exit code is the
first one that is not 0. SIGTERM and Ctrl-C are passed on, so that a run saves and ends.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading


def main() -> int:
    """Exit code of the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--command", choices=("train", "evaluate", "embed"), default="train", help="of clip-jax")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the command, after --")
    args = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={args.devices}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "clip_jax", args.command, *(a for a in args.arguments if a != "--")]
    running = []
    for process in range(args.processes):
        own = ["--distributed", address, "--processes", str(args.processes), "--process", str(process)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        running.append(subprocess.Popen([*command, *own], env=environment, **pipes))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: [process.send_signal(signal.SIGTERM) for process in running])
    readers = [threading.Thread(target=_show, args=(n, process)) for n, process in enumerate(running)]
    for reader in readers:
        reader.start()
    codes = [process.wait() for process in running]
    for reader in readers:
        reader.join()
    return next((code for code in codes if code), 0)


def _show(number: int, process: subprocess.Popen[str]) -> None:
    assert process.stdout
    for line in process.stdout:
        print(f"[{number}] {line}", end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
