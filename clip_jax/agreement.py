"""Processes say to each other what failed before any goes on: by JAX's key-value store, since devices may stand anywhere."""

import itertools

import jax

from clip_jax import coordination

_rounds = itertools.count()  # the same on all processes, which ask the same questions in the same order


def failure_of_any(own: str, *, patience: float = 1200.0) -> str:
    """What failed, on this process or another ("process 1 of 2: ..."), the first of them; "" where nothing did.

    own: what failed here, or "". All processes call this together, and all get the same. patience: seconds to wait for the
    others; longer than Orbax waits for those that stay away from a save, 600 s. Raises RuntimeError where they do not come:
    they wait for this process elsewhere, and only a new start helps.
    """
    number = jax.process_count()
    if number == 1:
        return own
    client = coordination.client()
    folder = f"clip_jax/failures/{next(_rounds)}/"
    if own:
        client.key_value_set(f"{folder}{jax.process_index()}", own)
    try:
        client.wait_at_barrier(f"{folder}all", round(1000 * patience))
    except jax.errors.JaxRuntimeError as error:
        here = f" after an error here ({own})" if own else ""
        raise RuntimeError(
            f"not all of {number} processes came within {patience:.0f} s{here}; start the same command again"
        ) from error
    failures = {int(key.rpartition("/")[2]): words for key, words in client.key_value_dir_get(folder)}
    if not failures:
        return ""
    first = min(failures)
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    return f"process {first} of {number}{more}: {failures[first]}"
