"""Every loss over N x N logits in its three forms: one value and one gradient, those of plain formulas in float64."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clip_jax.losses import anchors, centroids, confidence, contrastive, dark, relational, robust, sigmoid, similarities
from clip_jax.losses.collect import GlobalBatch
from clip_jax.losses.pairs import Pairs
from clip_jax.sharding import BATCH, MeshConfig, make_mesh
from tests.conftest import QUICK_COMPILE
from tests.losses.checks import same_captions, unit_rows

N = 40  # five rows on each of eight devices


def softmax_of(logits: jax.Array) -> jax.Array:
    return jax.nn.softmax(logits, axis=1)


def own(logits: jax.Array) -> jax.Array:
    return -jnp.diagonal(jax.nn.log_softmax(logits, axis=1))


def soft(target: jax.Array, logits: jax.Array) -> jax.Array:
    return -(softmax_of(target) * jax.nn.log_softmax(logits, axis=1)).sum(axis=1)


def kl(target: jax.Array, logits: jax.Array) -> jax.Array:
    return soft(target, logits) - soft(target, target)


def both(row: Callable[..., jax.Array], *logits: jax.Array) -> jax.Array:
    return (row(*logits) + row(*(one.T for one in logits))) / 2


def sure(teacher: jax.Array) -> jax.Array:
    c = jnp.exp(-both(own, teacher))
    return jnp.minimum(c / c.mean(), 3.0)


def others(target: jax.Array, logits: jax.Array) -> jax.Array:
    p = softmax_of(target) * (1 - jnp.eye(len(target)))
    return -(p * jax.nn.log_softmax(logits, axis=1)).sum(axis=1)


def beyond(target: jax.Array, logits: jax.Array) -> jax.Array:
    more = (logits - target) * (20 / 14)
    margins = jnp.exp(more - jnp.diagonal(more)[:, None]) * (1 - jnp.eye(len(more)))
    return jnp.log(1e-4 + margins.sum(axis=1) / (len(more) - 1)) / 20


def yes_or_no(logits: jax.Array) -> jax.Array:
    return -jax.nn.log_sigmoid((2 * jnp.eye(len(logits)) - 1) * (logits - 3)).sum(axis=1)


def soft_yes_or_no(target: jax.Array, logits: jax.Array) -> jax.Array:
    q = jax.nn.sigmoid(target + 1)
    return -(q * jax.nn.log_sigmoid(logits - 3) + (1 - q) * jax.nn.log_sigmoid(3 - logits)).sum(axis=1)


def beside(a: Pairs, b: Any, batch: GlobalBatch) -> Any:
    """The losses by name, all at once, of a student and a teacher of one size: dict of f32[]."""
    yes, aim = a._replace(bias=np.float32(-3)), b._replace(bias=np.float32(1))
    return {
        "info_nce": contrastive.info_nce(a, batch=batch),
        "sigmoid": sigmoid.sigmoid_pairs(yes, batch=batch),
        "crd": similarities.crd(a, b, batch=batch),
        "affinity": similarities.affinity(a, b, batch=batch),
        "reinforcement": similarities.reinforcement(a, [(b, 1.0), (b._replace(scale=b.scale / 2), 3.0)], batch=batch),
        "sigmoid_distillation": similarities.sigmoid_distillation(yes, aim, batch=batch),
        "icl": anchors.icl(a, b.embeddings, batch=batch),
        "cross_kd": anchors.cross_kd(a, b, batch=batch),
        "full_teacher": centroids.full_teacher(a.image, b.image, a.scale, batch=batch),
        "csd_relations": confidence.csd_relations(a, b, batch=batch),
        "drrho": robust.drrho(a.embeddings, b.embeddings, temperature=0.05, batch=batch),
        "vrd": relational.vrd(a.embeddings, b.embeddings, (a.scale, b.scale), batch=batch),
        "xrd": relational.xrd(a, b.embeddings, batch=batch),
        "dark_match": dark.dark_match(a, b, temperature=5.0, batch=batch),
        "dark_rest": dark.dark_rest(a, b, temperature=5.0, batch=batch),
    }


def plainly(a: Pairs, b: Any) -> Any:
    """The same by whole matrices, of float64."""
    still = jax.lax.stop_gradient

    def of(x: jax.Array, y: jax.Array, scale: jax.Array) -> jax.Array:
        return scale * x @ y.T

    b = still(b)
    s, t = of(*a[:3]), of(*b[:3])
    image, text = of(a.image, b.text, a.scale), of(a.text, b.image, a.scale)
    unsure = of(b.image, b.text, b.scale / 5)
    one, two = of(b.image, a.text, a.scale), of(b.text, a.image, a.scale)
    mixed = [(softmax_of(one) + 3 * softmax_of(one / 2)) / 4 for one in (t, t.T)]
    rows = {
        "info_nce": both(own, s),
        "sigmoid": yes_or_no(s),
        "crd": both(kl, t, s),
        "affinity": both(soft, t, s),
        "reinforcement": -(mixed[0] * jax.nn.log_softmax(s, axis=1) + mixed[1] * jax.nn.log_softmax(s.T, axis=1)).sum(
            axis=1
        )
        / 2,
        "sigmoid_distillation": soft_yes_or_no(t, s),
        "icl": (own(image) + own(text)) / 2,
        "cross_kd": (kl(t, image) + kl(t.T, text)) / 2,
        "full_teacher": own(of(a.image, b.image, a.scale)),
        "csd_relations": sure(t) * both(kl, t, s),
        "drrho": 2 * both(beyond, of(b.image, b.text, 14.0), of(a.image, a.text, 14.0)),
        "vrd": both(kl, still(of(b.text, a.text, b.scale)), of(b.image, a.image, a.scale)),
        "xrd": (both(kl, still(two), one) + both(kl, still(one), two)) / 2,
        "dark_match": jnp.exp(-own(unsure)) * own(s),
        "dark_rest": others(unsure, s),
    }
    return {name: row.mean() for name, row in rows.items()}


def student_and_teacher(scale: float) -> tuple[np.ndarray, ...]:
    """x, y, s of the student, some captions of which are one, then of the teacher, whose pairs match more or less."""
    args = [unit_rows(seed, N, 12) for seed in range(4)]
    same_captions(args, (1, 3))
    args[3] += 0.4 * args[2]
    args[3] /= np.linalg.norm(args[3], axis=1, keepdims=True)
    return args[0], args[1], np.float32(scale), args[2], args[3], np.float32(30)


def outcomes(losses: Callable[..., Any], args: Any) -> Any:
    """By name (value, the gradients in x, y and s of the student and x and y of the teacher), each loss by itself."""

    def one(name: str) -> Callable[..., jax.Array]:
        return lambda *args: losses(Pairs(*args[:3]), Pairs(*args[3:]))[name]

    names = jax.eval_shape(lambda *args: losses(Pairs(*args[:3]), Pairs(*args[3:])), *args)
    return {name: jax.value_and_grad(one(name), argnums=(0, 1, 2, 3, 4))(*args) for name in names}


@functools.cache
def exactly(scale: float) -> Any:
    with jax.enable_x64(True):
        args = [jnp.asarray(arg, jnp.float64) for arg in student_and_teacher(scale)]
        return jax.tree.map(np.asarray, jax.jit(lambda *args: outcomes(plainly, args))(*args))


FORMS = {
    "chunks": ("chunked", 7, (0, 0)),
    "chunks on eight devices": ("chunked", 7, (4, 2)),
    "a ring of eight": ("ring", 2, (4, 2)),
}
MORE_FORMS = {
    "one chunk": ("chunked", 1000, (0, 0)),
    "chunks of one column": ("chunked", 1, (8, 1)),
    "a ring of one": ("ring", 7, (0, 0)),
    "a ring of whole blocks": ("ring", 5, (8, 1)),
    "gathered": ("gathered", 1, (4, 2)),
}
CASES = [*FORMS.items(), *(pytest.param(*item, marks=pytest.mark.slow) for item in MORE_FORMS.items())]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_every_form_has_the_value_and_gradient_of_whole_matrices(name: str, case: Any) -> None:
    form, chunk, mesh = case
    batch = GlobalBatch(axes=BATCH if mesh[0] else (), form=form, chunk=chunk)

    def losses(a: Pairs, b: Pairs) -> Any:
        def local(*args: Any) -> Any:
            return beside(Pairs(*args[:3]), Pairs(*args[3:]), batch)

        if not mesh[0]:
            return local(*a[:3], *b[:3])
        cuts = (jax.P(BATCH), jax.P(BATCH), jax.P()) * 2
        devices = make_mesh(MeshConfig(data=mesh[0], fsdp=mesh[1]))
        return jax.shard_map(local, mesh=devices, in_specs=cuts, out_specs=jax.P())(*a[:3], *b[:3])

    run = jax.jit(lambda *args: outcomes(losses, args), compiler_options=QUICK_COMPILE)
    for scale in (14.3, 100.0):
        found = run(*student_and_teacher(scale))
        for loss, (value, slopes) in exactly(scale).items():
            np.testing.assert_allclose(found[loss][0], value, rtol=1e-6, err_msg=f"{loss} at {scale}")
            for number, (ours, true) in enumerate(zip(found[loss][1], slopes, strict=True)):
                of = f"{loss} at {scale}, argument {number}"
                np.testing.assert_allclose(ours, true, rtol=1e-5, atol=1e-5 * np.abs(true).max(), err_msg=of)


@pytest.mark.parametrize("form", ["chunked", "ring"])
def test_rows_in_bf16_have_their_slopes_summed_in_f32(form: str) -> None:
    x, y = (jnp.asarray(unit_rows(seed, 1024, 16), jnp.bfloat16) for seed in range(2))
    batch = GlobalBatch(form=form, chunk=8)

    def slope(batch: GlobalBatch) -> jax.Array:
        return jax.jit(jax.grad(lambda x: contrastive.info_nce(Pairs(x, y, jnp.float32(20)), batch=batch)))(x)

    found, whole = (slope(one).astype(jnp.float32) for one in (batch, GlobalBatch()))
    assert jnp.linalg.norm(found - whole) < 4e-3 * jnp.linalg.norm(
        whole
    )  # of a rounding to bf16; 2e-2 if each tile rounds
