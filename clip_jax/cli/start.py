"""How commands that compute begin: logging, the compile cache, and the other processes of the run."""

import logging
import os
from pathlib import Path

import jax


def start(*, coordinator: str = "", processes: int = 1, process: int = 0) -> None:
    """Call before the first array. coordinator: "" for one process, "auto" on TPU pods, Slurm and MPI, else HOST:PORT of
    the first process. Compiled programs are kept in the user's own cache folder, so that a resumed run starts at once.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("clip_jax").setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.ERROR)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "clip_jax" / "compiled"))
    if coordinator == "auto":
        jax.distributed.initialize()
    elif coordinator:
        if os.environ.get("JAX_PLATFORMS") == "cpu":
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(coordinator, processes, process)
