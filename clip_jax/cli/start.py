"""How commands that compute begin: logging, the compile cache, and the other processes of the run."""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import jax
from absl import flags

from clip_jax.peers import LOST


def define_process_flags(values: flags.FlagValues) -> None:
    """--distributed, --processes and --process, which `start` takes."""
    flags.DEFINE_string(
        "distributed",
        "",
        "several processes: auto (TPU pods, Slurm, MPI), or the first one's HOST:PORT",
        flag_values=values,
    )
    flags.DEFINE_integer("processes", 1, "how many, with --distributed HOST:PORT", flag_values=values)
    flags.DEFINE_integer("process", 0, "which one this is, with --distributed HOST:PORT", flag_values=values)
    flags.DEFINE_integer("join_seconds", 300, "for which to wait for all processes", 1, flag_values=values)


def start(values: flags.FlagValues) -> None:
    """Call before the first array, with parsed flags: as `prepare`, and joins the other processes. Raises ValueError for
    process flags that do not fit together.
    """
    coordinator, processes, process = values.distributed, values.processes, values.process
    if coordinator in ("", "auto") and (values["processes"].present or values["process"].present):
        raise ValueError(
            "--processes and --process go with --distributed HOST:PORT, the first process's address; give it"
        )
    if not 0 <= process < processes:
        raise ValueError(f"--process {process} of --processes {processes}; they count from 0 to --processes - 1")
    prepare()
    if not coordinator:
        return
    own = {} if coordinator == "auto" else {"num_processes": processes, "process_id": process}
    if own and os.environ.get("JAX_PLATFORMS") == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    address = None if coordinator == "auto" else coordinator
    with _patience(values.join_seconds, f"process {process} of {processes}" if own else "this process"):
        jax.distributed.initialize(address, **own, initialization_timeout=2 * values.join_seconds + 60)


@contextlib.contextmanager
def _patience(seconds: int, who: str) -> Iterator[None]:
    """A context that ends the process, after so many seconds inside: JAX's own way out names nobody, and dumps a stack."""

    def give_up() -> None:
        print(
            f"{who} waited {seconds} s for the others, and not all came. Start all of them within --join_seconds; the first "
            "one's HOST:PORT must be within reach of each. The same command may succeed now",
            file=sys.stderr,
            flush=True,
        )
        os._exit(LOST)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def prepare() -> None:
    """What is logged, and where compiled programs are kept: in the user's own cache folder, so that the next start is fast."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("clip_jax").setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.ERROR)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        compiled = cache / "clip_jax" / "compiled"
        with contextlib.suppress(OSError):  # without a home there is no cache, but a run
            compiled.mkdir(mode=0o700, parents=True, exist_ok=True)  # who can write there can run code as this user
        jax.config.update("jax_compilation_cache_dir", str(compiled))
