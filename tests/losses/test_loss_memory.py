"""Compiled memory of a loss and its gradients: in tiles it grows as the batch does, gathered as its square."""

import functools
from collections.abc import Callable

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
    value, (of_x, _, _) = jax.jit(with_gradients(name, "ring", 512))(x, y, s, x, y, s)
    chosen = np.asarray(x[:3], np.float64) @ np.asarray(y, np.float64).T * 10
    assert np.isfinite(np.asarray(of_x)).all()
    if name == "info_nce":  # of rows whose softmax is nearly flat: log N + s^2 / 2D, less the own logit
        assert abs(float(value) - (np.log(rows) + 100 / (2 * D))) < 0.02
        p = np.exp(chosen - chosen.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        forward = 10 * (p @ np.asarray(y, np.float64) - np.asarray(y[:3], np.float64)) / rows / 2
        assert np.corrcoef(np.asarray(of_x[:3], np.float64).ravel(), forward.ravel())[0, 1] > 0.7
    else:
        assert float(value) > 0
