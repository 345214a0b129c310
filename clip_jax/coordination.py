"""JAX's coordination service, which runs in process 0 and has no public name: its key-value store, and its address."""

from typing import Any

from jax._src import distributed


def client() -> Any:
    """Its key-value store and barriers. Raises ValueError before `jax.distributed.initialize` has been called."""
    return _joined().client


def address() -> tuple[str, int]:
    """Host and port. Raises ValueError before `jax.distributed.initialize` has been called."""
    host, port = str(_joined().coordinator_address).rsplit(":", 1)
    return host.strip("[]"), int(port)


def _joined() -> Any:
    state = distributed.global_state
    if state.client is None:
        raise ValueError(
            "there are several processes, but this one has not joined the others; start each with --distributed auto, or with "
            "--distributed HOST:PORT --processes N --process I"
        )
    return state
