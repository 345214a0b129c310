"""Trees of parameters by path: `visual/blocks/attn/qkv/kernel` names a leaf wherever a config or a table needs to."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np


def path_of(keys: tuple[Any, ...]) -> str:
    """JAX's key path as names joined by slashes."""
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def map_with_path(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """jax.tree.map with the leaf's path as first argument."""
    return jax.tree_util.tree_map_with_path(lambda keys, *leaves: function(path_of(keys), *leaves), tree, *rest)


def paths(tree: Any) -> list[str]:
    """Paths of all leaves, in tree order."""
    return [path_of(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(tree)]


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """Path -> leaf, in tree order."""
    return {path_of(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dict whose leaves_by_path these are."""
    root: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        node = root
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = leaf
    return root


def misfits(given: Any, wanted: Any) -> list[str]:
    """Where two trees of (abstract) arrays differ in paths or shapes: lines such as `text/proj/bias: absent, not (64,)`."""
    shapes = [{path: str(leaf.shape) for path, leaf in leaves_by_path(tree).items()} for tree in (given, wanted)]
    pairs = {
        path: [known.get(path, "absent") for known in shapes] for path in sorted(shapes[0].keys() | shapes[1].keys())
    }
    return [f"{path}: {there}, not {here}" for path, (there, here) in pairs.items() if there != here]


def mask(tree: Any, patterns: Sequence[str], *, what: str = "pattern") -> Any:
    """A tree of bools: True where one of the regexes matches the whole path.

    Raises ValueError for a regex that matches nothing: it is a typo more often than a wish.
    """
    names = paths(tree)
    for pattern in patterns:
        if not any(re.fullmatch(pattern, name) for name in names):
            raise ValueError(
                f"{what} {pattern!r} matches no parameter; paths look like {names[:3]}, and `.*` is any text"
            )
    return map_with_path(lambda path, _: any(re.fullmatch(pattern, path) for pattern in patterns), tree)


def count(tree: Any) -> int:
    """Number of elements in all leaves."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def bytes_of(tree: Any) -> int:
    """Bytes of all leaves, each counted whole."""
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def weights_hash(tree: Any) -> str:
    """32 hex digits that any change of a parameter changes: blake2b over sorted paths, shapes and f32 bytes.

    The order of the leaves and their placement do not matter. Arrays must lie on this process's devices or on the host.
    """
    state = hashlib.blake2b(digest_size=16)
    for path, leaf in sorted(leaves_by_path(tree).items()):
        state.update(f"{path}{tuple(leaf.shape)}\0".encode())
        state.update(np.ascontiguousarray(leaf, "<f4").data)
    return state.hexdigest()


def bytes_per_device(tree: Any, shardings: Any) -> int:
    """Bytes one device holds of a tree of (abstract) arrays under a tree of shardings."""
    leaves, placed = jax.tree.leaves(tree), jax.tree.leaves(shardings)
    return sum(
        int(np.prod(sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf, sharding in zip(leaves, placed, strict=True)
    )
