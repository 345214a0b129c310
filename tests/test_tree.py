"""Paths of trees, and the hash that tells one model's weights from another's."""

import hashlib

import jax
import numpy as np
import pytest

from clip_jax import tree

SMALL = {
    "b": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.zeros(3, np.float32)},
    "a": np.ones(()),
}


def test_weights_hash_is_what_it_says() -> None:
    state = hashlib.blake2b(digest_size=16)
    for path, leaf in (("a", np.ones((), "<f4")), ("b/bias", np.zeros(3, "<f4")), ("b/kernel", SMALL["b"]["kernel"])):
        state.update(f"{path}{leaf.shape}\0".encode() + leaf.tobytes())
    assert tree.weights_hash(SMALL) == state.hexdigest()


def test_weights_hash_is_the_same_on_devices_in_any_order_and_layout() -> None:
    kernel = np.asfortranarray(SMALL["b"]["kernel"])
    turned = {"a": np.float64(1), "b": {"bias": SMALL["b"]["bias"], "kernel": kernel}}
    assert tree.weights_hash(turned) == tree.weights_hash(SMALL)
    assert tree.weights_hash(jax.device_put(SMALL)) == tree.weights_hash(SMALL)


@pytest.mark.parametrize("path", ["a", "b/bias", "b/kernel"])
def test_weights_hash_changes_with_the_last_bit_of_any_parameter(path: str) -> None:
    leaves = tree.leaves_by_path(SMALL)
    changed = np.array(leaves[path], np.float32)
    changed.flat[-1] = np.nextafter(changed.flat[-1], np.float32(9))
    assert tree.weights_hash(tree.nested(leaves | {path: changed})) != tree.weights_hash(SMALL)


def test_weights_hash_changes_with_names_and_shapes() -> None:
    leaves = tree.leaves_by_path(SMALL)
    flat = leaves | {"b/kernel": leaves["b/kernel"].reshape(3, 2)}
    renamed = {("c" if path == "a" else path): leaf for path, leaf in leaves.items()}
    hashes = {tree.weights_hash(tree.nested(given)) for given in (leaves, flat, renamed)}
    assert len(hashes) == 3
