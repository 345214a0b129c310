"""Compiled memory of a loss and its gradients: in tiles it grows as the batch does, gathered as its square."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clip_jax.losses.anchors import icl
from clip_jax.losses.collect import Form, GlobalBatch
from clip_jax.losses.contrastive import info_nce
from clip_jax.losses.pairs import Pairs
from clip_jax.losses.sigmoid import sigmoid_pairs
from clip_jax.losses.similarities import affinity, crd, reinforcement
from clip_jax.sharding import BATCH, MeshConfig, make_mesh
from tests.conftest import QUICK_COMPILE
from tests.losses.checks import unit_rows

D = 32
LOSSES: dict[str, Callable[..., jax.Array]] = {
    "info_nce": lambda a, b, batch: info_nce(a, batch=batch),
    "sigmoid": lambda a, b, batch: sigmoid_pairs(a, batch=batch),
    "crd": lambda a, b, batch: crd(a, b, batch=batch),
    "icl": lambda a, b, batch: icl(a, b.embeddings, batch=batch),
    "affinity": lambda a, b, batch: affinity(a, b, batch=batch),
    "reinforcement": lambda a, b, batch: reinforcement(
        a, [(b, 1.0), (b._replace(scale=b.scale / 2), 1.0)], batch=batch
    ),
}


def with_gradients(name: str, form: Form, chunk: int) -> Callable[..., jax.Array]:
    """(x, y, s, x^, y^, s^) -> the loss, on eight devices, and its gradients in x, y and s."""

    def local(*args: jax.Array) -> jax.Array:
        return LOSSES[name](Pairs(*args[:3]), Pairs(*args[3:]), GlobalBatch(axes=BATCH, form=form, chunk=chunk))

    cuts = (jax.P(BATCH), jax.P(BATCH), jax.P()) * 2
    loss = jax.shard_map(local, mesh=make_mesh(MeshConfig()), in_specs=cuts, out_specs=jax.P())
    return jax.value_and_grad(loss, argnums=(0, 1, 2))


@functools.cache
def temporaries(name: str, form: Form, rows: int) -> int:
    """Bytes a device."""
    x, s = jax.ShapeDtypeStruct((rows, D), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
    lowered = jax.jit(with_gradients(name, form, 256)).lower(x, x, s, x, x, s)
    return lowered.compile(QUICK_COMPILE).memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    "name", [name if name in ("info_nce", "crd") else pytest.param(name, marks=pytest.mark.slow) for name in LOSSES]
)
def test_memory_grows_with_the_batch_and_not_with_its_square(name: str) -> None:
    small, large = 4_096, 16_384
    for form in ("ring", "chunked"):
        assert temporaries(name, form, large) < 4.4 * temporaries(name, form, small)
    assert temporaries(name, "gathered", large) > 12 * temporaries(name, "gathered", small)  # so this test can fail
    assert temporaries(name, "ring", large) < temporaries(name, "gathered", large) / 16


@pytest.mark.slow
@pytest.mark.parametrize("name", ["info_nce", "sigmoid"])
def test_a_batch_of_65536_runs(name: str) -> None:
    """The gathered form would hold 17 GB of logits."""
    rows = 65_536
    x, y = unit_rows(0, rows, D), unit_rows(1, rows, D)
    at = jax.sharding.NamedSharding(make_mesh(MeshConfig()), jax.P(BATCH))
    x, y = jax.device_put((x, y), at)
    s = np.float32(10)
    value, (of_x, of_y, of_s) = jax.jit(with_gradients(name, "ring", 512))(x, y, s, x, y, s)
    expected = {"info_nce": softmax_by_hand, "sigmoid": sigmoid_by_hand}[name](x, y, 10.0)
    for ours, right in zip((value, of_x, of_y, of_s), expected, strict=True):
        error = np.linalg.norm(np.asarray(ours, np.float64) - right) / np.linalg.norm(right)
        assert error < (1e-6 if ours is value else 1e-5)


def softmax_by_hand(x: np.ndarray, y: np.ndarray, s: float) -> tuple[Any, ...]:
    """Value and gradients in x, y and s in float64, a block of rows at a time; no maximum is needed, as s is small."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n, of_rows, of_columns = len(x), np.empty(len(x)), np.zeros(len(y))
    for block in blocks(n):
        e = np.exp(s * x[block] @ y.T)
        of_rows[block], of_columns = e.sum(axis=1), of_columns + e.sum(axis=0)
    value = np.mean(np.log(of_rows) + np.log(of_columns)) / 2 - s * np.mean(np.sum(x * y, axis=1))
    of_x, of_y = -y / n, -x / n
    for block in blocks(n):
        p = np.exp(s * x[block] @ y.T)
        p *= (1 / of_rows[block, None] + 1 / of_columns) / (2 * n)
        of_x[block] += p @ y
        of_y += p.T @ x[block]
    return value, s * of_x, s * of_y, np.sum(of_x * x)


def sigmoid_by_hand(x: np.ndarray, y: np.ndarray, s: float) -> tuple[Any, ...]:
    """As softmax_by_hand: mean over rows of the sum over columns of log(1 + exp(-z l)), z = 1 for a pair and -1 else."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n, value = len(x), -s * np.sum(x * y)
    of_x, of_y = -y / n, -x / n
    for block in blocks(n):
        e = np.exp(s * x[block] @ y.T)
        value += np.log1p(e).sum()
        p = e / (1 + e) / n
        of_x[block] += p @ y
        of_y += p.T @ x[block]
    return value / n, s * of_x, s * of_y, np.sum(of_x * x)


def blocks(n: int) -> list[slice]:
    return [slice(start, start + 1024) for start in range(0, n, 1024)]
