"""What is written beside a checkpoint's arrays, so that reading shows whether they are the same."""

import json
import zlib
from typing import Any

import jax
import jax.numpy as jnp


class Damaged(Exception):
    """What is read is not what was written."""


def proof_of(items: dict[str, Any]) -> dict[str, Any]:
    """{"fingerprints": of each leaf of `items`, "checksum": of the fingerprints themselves}, for JSON."""
    fingerprints = fingerprints_of(items)
    return {"fingerprints": fingerprints, "checksum": _checksum(fingerprints)}


def proven(proof: dict[str, Any]) -> dict[str, int]:
    """The fingerprints of a proof; the oldest have no checksum. Raises Damaged where it is not as it was written."""
    fingerprints = dict(proof["fingerprints"])
    rest = {name: value for name, value in proof.items() if name != "fingerprints"}
    if rest and rest != {"checksum": _checksum(fingerprints)}:
        raise Damaged("its proof does not have the checksum it was written with")
    return fingerprints


def check_fingerprints(found: dict[str, int], written: dict[str, int]) -> None:
    """Raises Damaged, with the leaf's name, where one of `found` is not as written."""
    for name, value in found.items():
        if written[name] != value:
            raise Damaged(f"{name} does not have the fingerprint it was written with")


def fingerprints_of(items: dict[str, Any]) -> dict[str, int]:
    """A 32-bit sum over each leaf's bits, weighted by position: any flipped bit changes it, any sharding gives the same.

    All processes that hold a part of the leaves call this together.
    """
    leaves = dict(zip(names_of(items), jax.tree.leaves(items), strict=True))
    return {name: int(value) for name, value in jax.device_get(_sums(leaves)).items()}


def names_of(items: dict[str, Any]) -> list[str]:
    """Of the leaves: `['params']['logit_scale']`."""
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(items)]


def _checksum(fingerprints: dict[str, int]) -> int:
    return zlib.crc32(json.dumps(fingerprints, sort_keys=True).encode())


@jax.jit
def _sums(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
    def one(leaf: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")).astype(jnp.uint32)
        total = jnp.zeros((), jnp.uint32)
        weight = jnp.ones((), jnp.uint32)
        for axis, size in enumerate(reversed(bits.shape)):
            index = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, bits.ndim - 1 - axis)
            total, weight = total + index * weight, weight * jnp.uint32(size)
        return (bits * (2 * total + 1)).sum(dtype=jnp.uint32)

    return jax.tree.map(one, leaves)
