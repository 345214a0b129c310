"""JAX's coordination service, which runs in process 0 and has no public name: its key-value store, and its address."""

from typing import Any

from jax._src import distributed


def client() -> Any:
    """Its key-value store and barriers, once `jax.distributed.initialize` has been called."""
    return distributed.global_state.client


def address() -> tuple[str, int]:
    """Host and port."""
    host, port = str(distributed.global_state.coordinator_address).rsplit(":", 1)
    return host.strip("[]"), int(port)
