"""What every loss must stand: a float64 reference, its finite differences, all meshes, a permutation, no gradient to teachers.

A loss is called as `loss(*args, batch=...)`, with arrays only: `flat` makes such of one that takes Pairs; one that takes lists
gets a small function around it, at the top level of its test file, so that it is compiled once. `rows` names the arguments
cut by rows over a mesh; the others are whole on each device. A mesh is (data, fsdp), and (0, 0) is none.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_jax.losses.collect import HERE, GlobalBatch
from clip_jax.losses.pairs import Pairs
from clip_jax.sharding import BATCH, MeshConfig, make_mesh
from tests.conftest import QUICK_COMPILE

N, E, D = 16, 8, 12  # pairs, the student's embedding size, a teacher's of another size
MESHES = ((0, 0), (8, 1), (4, 2))
RELATED = (0, 1, 3, 4)  # rows among the arguments of flat(loss, 3, 3): image, text, scale, then the teacher's


def unit_rows(seed: int, count: int = N, size: int = E) -> np.ndarray:
    """Random directions: f32[count, size]."""
    x = np.random.default_rng(seed).standard_normal((count, size))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def same_captions(args: Sequence[Any], texts: Sequence[int]) -> None:
    """Makes the first four captions one, in each of the arguments `texts`."""
    for number in texts:
        args[number][1:4] = args[number][0]


def step_at(scale: float) -> float:
    """Of central differences, for logits of that size."""
    return 1e-8 if scale == 1e4 else 1e-6


@functools.cache
def flat(loss: Callable[..., jax.Array], *groups: int, **settings: float) -> Callable[..., Any]:
    """`loss` of arrays alone. groups: how many make each argument: 1 it itself, 2 (image, text), 3 and 4 Pairs."""

    def argument(*arrays: jax.Array) -> Any:
        return Pairs(*arrays) if len(arrays) > 2 else arrays if len(arrays) == 2 else arrays[0]

    def of_arrays(*arrays: jax.Array, batch: GlobalBatch = HERE) -> Any:
        assert len(arrays) == sum(groups), f"{len(arrays)} arrays for {groups}"
        left = iter(arrays)
        return loss(*(argument(*itertools.islice(left, count)) for count in groups), **settings, batch=batch)

    return of_arrays


@functools.cache
def loss_and_grads(loss: Callable[..., jax.Array], rows: tuple[int, ...], mesh: tuple[int, int] = (0, 0)) -> Any:
    """Jitted: args -> (loss, (its gradient in each argument, None for integers))."""

    def run(*args: jax.Array) -> tuple[jax.Array, tuple[jax.Array | None, ...]]:
        of_all = loss
        if mesh[0]:
            devices = make_mesh(MeshConfig(data=mesh[0], fsdp=mesh[1]), jax.devices()[: mesh[0] * mesh[1]])
            cuts = tuple(jax.P(BATCH) if number in rows else jax.P() for number in range(len(args)))
            cut_loss = functools.partial(loss, batch=GlobalBatch(axes=BATCH))
            of_all = jax.shard_map(cut_loss, mesh=devices, in_specs=cuts, out_specs=jax.P())
        floats = tuple(number for number, arg in enumerate(args) if jnp.issubdtype(arg.dtype, jnp.floating))
        value, grads = jax.value_and_grad(of_all, argnums=floats)(*args)
        return value, tuple(grads[floats.index(n)] if n in floats else None for n in range(len(args)))

    return jax.jit(run, compiler_options=QUICK_COMPILE if mesh[0] else None)  # one device: as in earnest


def check_equal(
    found: Any,
    value: float,
    grads: Sequence[Any],
    *,
    value_error: float = 1e-6,
    value_floor: float | None = None,
    grad_error: float = 1e-5,
    grad_floor: float = 0.0,
    where: str = "",
) -> None:
    """Value and gradients of `loss_and_grads` are these; a gradient to `grad_error` of its largest element.

    floors: absolute errors that are allowed, too; of the value by default `value_error`. grads: one for each argument;
    None for those not to be compared.
    """
    assert np.isfinite(value)
    floor = value_error if value_floor is None else value_floor
    np.testing.assert_allclose(found[0], value, rtol=value_error, atol=floor, err_msg=where)
    for number, (ours, theirs) in enumerate(zip(found[1], grads, strict=True)):
        if theirs is not None:
            atol = grad_error * np.abs(theirs).max() + grad_floor
            of = f"{where} gradient in argument {number}"
            assert np.isfinite(theirs).all(), of
            np.testing.assert_allclose(ours, theirs, rtol=grad_error, atol=atol, err_msg=of)


def check_value_and_gradient(
    loss: Callable[..., jax.Array],
    reference: Callable[..., Any],
    args: Sequence[Any],
    *,
    rows: tuple[int, ...],
    differentiable: Sequence[int] | None = None,
    meshes: Sequence[tuple[int, int]] = MESHES,
    value_error: float = 1e-6,
    value_floor: float | None = None,
    grad_error: float = 1e-5,
    grad_floor: float = 0.0,
    step: float = 1e-6,
) -> None:
    """The value is the reference's, the gradients its central differences of `step`, on each mesh.

    reference: the same arguments (floats in float64) -> the loss, in NumPy. Its own derivation of a gradient is not asked
    for. Errors and floors: see check_equal. differentiable: arguments whose gradient is compared; all of floats by
    default. step: times an element's size where that is above 1; a scale of 1e4 needs 1e-8.
    """
    floats = [jnp.issubdtype(jnp.asarray(arg).dtype, jnp.floating) for arg in args]
    exact = [np.asarray(arg, np.float64 if real else None) for arg, real in zip(args, floats, strict=True)]
    compared = [n for n, real in enumerate(floats) if real and (differentiable is None or n in differentiable)]
    value = float(reference(*exact))
    grads = [differences(reference, exact, n, step) if n in compared else None for n in range(len(args))]
    noise = 1e-15 * abs(value) / step  # of the differences
    for mesh in meshes:
        check_equal(
            loss_and_grads(loss, rows, mesh)(*args),
            value,
            grads,
            value_error=value_error,
            value_floor=value_floor,
            grad_error=grad_error,
            grad_floor=grad_floor + noise,
            where=f"mesh {mesh}",
        )


def differences(reference: Callable[..., Any], exact: Sequence[np.ndarray], number: int, step: float) -> np.ndarray:
    """Central differences of the reference in each element of argument `number`, all in float64."""
    slopes = np.zeros(exact[number].shape)
    for index in np.ndindex(slopes.shape):
        width = step * max(1.0, abs(float(exact[number][index])))
        ends = []
        for sign in (1, -1):
            moved = exact[number].copy()
            moved[index] += sign * width
            ends.append(float(reference(*exact[:number], moved, *exact[number + 1 :])))
        slopes[index] = (ends[0] - ends[1]) / (2 * width)
    return slopes


def check_scales(
    loss: Callable[..., jax.Array],
    reference: Callable[..., Any],
    args: Sequence[Any],
    scale: float,
    teacher_scale: float,
) -> None:
    """`check_value_and_gradient` of the student's embeddings at these scales, for a loss of `RELATED` arguments."""
    given = [*args[:2], np.float32(scale), *args[3:5], np.float32(teacher_scale)]
    exact = {"differentiable": (0, 1), "step": step_at(scale), "grad_error": 1e-4}
    check_value_and_gradient(loss, reference, given, rows=RELATED, **exact)


def check_no_gradient(
    loss: Callable[..., jax.Array],
    args: Sequence[Any],
    which: Sequence[int],
    *,
    rows: tuple[int, ...],
    meshes: Sequence[tuple[int, int]] = ((0, 0), (8, 1)),
) -> None:
    """Exactly none flows into the arguments `which` (a teacher's), and some into each other of floats."""
    for mesh in meshes:
        for number, grad in enumerate(loss_and_grads(loss, rows, mesh)(*args)[1]):
            if grad is not None:
                assert bool((np.asarray(grad) == 0).all()) == (number in which), f"mesh {mesh}, argument {number}"


def check_nothing(
    loss: Callable[..., jax.Array],
    args: Sequence[Any],
    *,
    rows: tuple[int, ...],
    value: float = 1e-6,
    grad: float = 1e-5,
    meshes: Sequence[tuple[int, int]] = ((0, 0), (8, 1)),
) -> None:
    """The loss and all its gradients are zero, within `value` and `grad`."""
    for mesh in meshes:
        found, grads = loss_and_grads(loss, rows, mesh)(*args)
        assert abs(float(found)) <= value, f"mesh {mesh}"
        assert all(np.abs(g).max() <= grad for g in grads if g is not None), f"mesh {mesh}"


def check_finite(
    loss: Callable[..., jax.Array],
    args: Sequence[Any],
    *,
    rows: tuple[int, ...],
    meshes: Sequence[tuple[int, int]] = ((0, 0),),
) -> None:
    """The loss and all its gradients are finite."""
    for mesh in meshes:
        found, grads = loss_and_grads(loss, rows, mesh)(*args)
        assert np.isfinite(found), f"mesh {mesh}"
        assert all(np.isfinite(g).all() for g in grads if g is not None), f"mesh {mesh}"


def check_slope(
    loss: Callable[..., jax.Array],
    args: Sequence[Any],
    *,
    rows: tuple[int, ...],
    differentiable: Sequence[int] | None = None,
    step: float = 1e-2,
    error: float = 2e-3,
) -> None:
    """Our own f32 loss, moved by `step` along a random direction both ways, changes as its gradient says.

    differentiable: arguments that move; all by default.
    """
    rng = np.random.default_rng(8)
    moving = range(len(args)) if differentiable is None else differentiable
    toward = {number: rng.standard_normal(np.shape(args[number])) for number in moving}
    run = loss_and_grads(loss, rows)
    grads = run(*args)[1]

    def loss_at(distance: float) -> float:
        moved = (np.float32(a + distance * toward[n]) if n in toward else a for n, a in enumerate(args))
        return float(run(*moved)[0])

    slope = sum(float((np.asarray(grads[number], np.float64) * along).sum()) for number, along in toward.items())
    np.testing.assert_allclose((loss_at(step) - loss_at(-step)) / (2 * step), slope, rtol=error)


def check_permutation(
    loss: Callable[..., jax.Array],
    args_of: Callable[[int], Sequence[Any]],
    *,
    rows: tuple[int, ...],
    mesh: tuple[int, int] = (8, 1),
    error: float = 1e-5,
) -> None:
    """A joint permutation of the pairs changes nothing but the order of the gradients. args_of: seed -> arguments."""
    run = loss_and_grads(loss, rows, mesh)

    @settings(max_examples=25, deadline=None)
    @given(order=st.permutations(range(N)), seed=st.integers(0, 1000))
    def check(order: list[int], seed: int) -> None:
        args = args_of(seed)
        value, grads = run(*args)
        moved_value, moved_grads = run(*(a[np.array(order)] if n in rows else a for n, a in enumerate(args)))
        np.testing.assert_allclose(moved_value, value, rtol=1e-5)
        for number, (grad, moved) in enumerate(zip(grads, moved_grads, strict=True)):
            if grad is not None:
                expected = np.asarray(grad)[order] if number in rows else np.asarray(grad)
                np.testing.assert_allclose(moved, expected, atol=error * max(1.0, np.abs(expected).max()))

    check()
