"""Losses between student and teacher: what each must stand, and what tells it from the others."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clip_jax.losses import anchors, contrastive, features, fusion, gradients, sigmoid, similarities
from clip_jax.losses.collect import HERE
from clip_jax.losses.features import image_cosine, image_l1, image_mse
from clip_jax.losses.pairs import Pairs
from clip_jax.losses.similarities import reinforcement
from clip_jax.models.clip import unit
from tests.losses import distillation_references as references
from tests.losses.checks import (
    D,
    E,
    N,
    check_finite,
    check_no_gradient,
    check_nothing,
    check_permutation,
    check_slope,
    check_value_and_gradient,
    flat,
    loss_and_grads,
    unit_rows,
)

S, T = np.float32(1 / 0.07), np.float32(20)  # factors of student and teacher


crd, affinity = flat(similarities.crd, 3, 3), flat(similarities.affinity, 3, 3)
sigmoid_distillation = flat(similarities.sigmoid_distillation, 4, 4)
info_nce, sigmoid_pairs = flat(contrastive.info_nce, 3), flat(sigmoid.sigmoid_pairs, 4)
icl, cross_kd = flat(anchors.icl, 3, 2), flat(anchors.cross_kd, 3, 3)
afd, gd = flat(fusion.afd, 3, 2, 1, 1), flat(gradients.gd, 3, 3)
fd, fd_cosine = flat(features.fd, 2, 2), flat(features.fd_cosine, 2, 2)


def reinforced(*arrays, batch=HERE):
    student, *teachers = (Pairs(*arrays[first : first + 3]) for first in (0, 3, 6))
    return reinforcement(student, list(zip(teachers, (0.5, 1.5), strict=True)), batch=batch)


def image_cosine_of_any(image, teacher_image, *, batch=HERE):
    """Of vectors of any length, as the reference is."""
    return image_cosine(unit(image), unit(teacher_image), batch=batch)


def fd_cosine_of_any(image, text, teacher_image, teacher_text, *, batch=HERE):
    return fd_cosine(*map(unit, (image, text, teacher_image, teacher_text)), batch=batch)


@dataclasses.dataclass(frozen=True)
class Case:
    """args: one letter each. x, y: the student's image and text; X, Y: the teacher's, of its own size where `free`; U, V:
    another teacher's; s, t, u: the factors of all three; b, c: biases; P, Q: kernels."""

    loss: Callable[..., jax.Array]
    reference: Callable[..., Any]
    args: str
    free: bool = False
    slope_step: float = 1e-2

    @property
    def rows(self) -> tuple[int, ...]:
        return tuple(n for n, letter in enumerate(self.args) if letter in "xyXYUV")

    @property
    def students(self) -> tuple[int, ...]:
        return tuple(n for n, letter in enumerate(self.args) if letter in "xysbPQ")

    @property
    def teachers(self) -> tuple[int, ...]:
        return tuple(n for n in range(len(self.args)) if n not in self.students)

    def given(self, seed: int, count: int = N, **changed: Any) -> tuple[Any, ...]:
        size = D if self.free else E
        kernels = np.random.default_rng(seed).standard_normal((2, E + size, E)).astype(np.float32)
        values = {
            "x": unit_rows(7 * seed, count),
            "y": unit_rows(7 * seed + 1, count),
            "X": unit_rows(7 * seed + 2, count, size),
            "Y": unit_rows(7 * seed + 3, count, size),
            "U": unit_rows(7 * seed + 4, count, size + 1),
            "V": unit_rows(7 * seed + 5, count, size + 1),
            **{"s": S, "t": T, "u": np.float32(9), "b": np.float32(-3), "c": np.float32(-5)},
            **dict(zip("PQ", kernels, strict=True)),
        }
        return tuple((values | changed)[letter] for letter in self.args)


CASES = {
    "crd": Case(crd, references.crd, "xysXYt", free=True, slope_step=4e-3),
    "affinity": Case(affinity, references.affinity, "xysXYt", free=True, slope_step=4e-3),
    "reinforcement": Case(reinforced, references.reinforcement, "xysXYtUVu", free=True),
    "sigmoid_distillation": Case(sigmoid_distillation, references.sigmoid_distillation, "xysbXYtc", free=True),
    "icl": Case(icl, references.icl, "xysXY"),
    "cross_kd": Case(cross_kd, references.cross_kd, "xysXYt"),
    "afd": Case(afd, references.afd, "xysXYPQ", free=True),
    "gd": Case(gd, references.gd, "xysXYt", slope_step=1e-3),
    "fd": Case(fd, references.fd, "xyXY"),
    "fd_cosine": Case(fd_cosine_of_any, references.fd_cosine, "xyXY"),
    "image_l1": Case(image_l1, references.image_l1, "xX", slope_step=1e-3),
    "image_mse": Case(image_mse, references.image_mse, "xX"),
    "image_cosine": Case(image_cosine_of_any, references.image_cosine, "xX"),
}
each = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@each
def test_equals_the_reference(case):
    check_value_and_gradient(
        case.loss, case.reference, case.given(0), rows=case.rows, differentiable=case.students, value_floor=0
    )


@each
def test_no_gradient_to_the_teacher(case):
    check_no_gradient(case.loss, case.given(1), case.teachers, rows=case.rows)


@each
def test_slope(case):
    check_slope(
        case.loss, case.given(2, s=np.float32(3)), rows=case.rows, differentiable=case.students, step=case.slope_step
    )


@each
def test_a_joint_permutation_of_the_pairs_changes_nothing(case):
    check_permutation(case.loss, case.given, rows=case.rows)


@each
def test_one_pair(case):
    given = case.given(3, count=1)
    check_value_and_gradient(
        case.loss,
        case.reference,
        given,
        rows=case.rows,
        differentiable=case.students,
        meshes=[(0, 0)],
        grad_floor=1e-5,
    )
    if case.loss in (crd, affinity, reinforced, icl, cross_kd, afd, gd):  # over one pair, a softmax knows the answer
        check_nothing(case.loss, given, rows=case.rows, meshes=[(0, 0)])


@each
def test_identical_captions(case):
    text, teacher_text = unit_rows(4), unit_rows(5, size=D if case.free else E)
    text[1:4], teacher_text[1:4] = text[0], teacher_text[0]
    given = case.given(4, y=text, Y=teacher_text)
    check_value_and_gradient(
        case.loss, case.reference, given, rows=case.rows, differentiable=case.students, meshes=[(8, 1)]
    )


@pytest.mark.parametrize("scale", [1e-6, 1.0, 100.0])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "s" in case.args])
def test_temperatures(name, scale):
    case, factor = CASES[name], np.float32(scale)
    given = case.given(5, s=factor, t=factor, u=factor)
    check_value_and_gradient(
        case.loss,
        case.reference,
        given,
        rows=case.rows,
        differentiable=case.students,
        meshes=[(0, 0)],
        value_error=1e-5,
        grad_error=1e-4,
        grad_floor=1e-8 if scale < 1 else 0,
        step=1e-7,
    )


@pytest.mark.parametrize(("student", "teacher"), [(1e-6, 1e4), (1e4, 1e-6), (1e6, 1e6)])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "s" in case.args])
def test_extreme_temperatures_stay_finite(name, student, teacher):
    case = CASES[name]
    given = case.given(6, s=np.float32(student), t=np.float32(teacher), u=np.float32(teacher))
    check_finite(case.loss, given, rows=case.rows)


@each
def test_a_teacher_in_bf16_is_taken_as_it_is(case):
    given = list(case.given(7))
    for number in set(case.rows) - set(case.students):
        given[number] = jnp.asarray(given[number], jnp.bfloat16)
    found = jax.jit(case.loss)(*given)
    assert found.dtype == jnp.float32
    assert float(found) == pytest.approx(case.reference(*(np.asarray(a, np.float64) for a in given)), rel=2e-6)


@pytest.mark.parametrize("name", ["crd", "cross_kd", "gd", "fd", "fd_cosine", "image_l1", "image_mse", "image_cosine"])
def test_who_equals_the_teacher_has_nothing_to_learn(name):
    case = CASES[name]
    x, y = unit_rows(8), unit_rows(9)
    same = case.given(8, x=x, y=y, X=x, Y=y, t=S)
    check_nothing(case.loss, same, rows=case.rows, value=1e-6, grad=1e-6)


@pytest.mark.parametrize("name", ["affinity", "sigmoid_distillation"])
def test_who_equals_the_teacher_pays_its_entropy_and_stays(name):
    case = CASES[name]
    x, y, bias = unit_rows(8), unit_rows(9), np.float32(-3)
    same = case.given(8, x=x, y=y, X=x, Y=y, t=S, b=bias, c=bias)
    value, grads = loss_and_grads(case.loss, case.rows)(*same)
    assert value > 0.1
    assert all(np.abs(grads[number]).max() < 1e-5 for number in case.students)


def test_affinity_is_crd_and_the_entropy_of_its_targets():
    given = CASES["crd"].given(9)
    found = loss_and_grads(affinity, CASES["crd"].rows)(*given)
    wanted = loss_and_grads(crd, CASES["crd"].rows)(*given)
    entropy = references.affinity(*given[3:], *given[3:])
    assert float(found[0]) == pytest.approx(float(wanted[0]) + entropy, rel=1e-5)
    for ours, theirs in zip(found[1], wanted[1], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_teachers_are_averaged_after_the_softmax_by_weights_that_sum_to_one():
    given = CASES["reinforcement"].given(10)
    student, first, second = (Pairs(*given[start : start + 3]) for start in (0, 3, 6))
    alone = float(similarities.affinity(student, first))
    assert float(reinforcement(student, [(first, 5.0)])) == pytest.approx(alone, rel=1e-6)
    assert float(reinforcement(student, [(first, 0.2), (first, 0.7)])) == pytest.approx(alone, rel=1e-6)
    assert float(reinforcement(student, [(first, 2.0), (second, 0.0)])) == pytest.approx(alone, rel=1e-6)
    halves = (alone + float(similarities.affinity(student, second))) / 2  # the loss is linear in the targets
    assert float(reinforcement(student, [(first, 3.0), (second, 3.0)])) == pytest.approx(halves, rel=1e-6)
    wanted = references.mixture(*student[:3], [first[:3], second[:3]], [1, 2])
    assert float(reinforcement(student, [(first, 0.2), (second, 0.4)])) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("weights", [(), (0.0,), (1.0, -0.5), (float("nan"),)])
def test_weights_of_teachers_that_mean_nothing(weights):
    given = CASES["affinity"].given(0)
    with pytest.raises(ValueError, match=r"weights of teachers \[.*none negative, not all zero"):
        reinforcement(Pairs(*given[:3]), [(Pairs(*given[3:]), weight) for weight in weights])


def test_a_teacher_sure_of_each_pair_makes_the_sigmoid_loss():
    x, y, sure = unit_rows(11, E), unit_rows(12, E), np.eye(E, dtype=np.float32)
    found = sigmoid_distillation(x, y, np.float32(10), np.float32(-3), sure, sure, np.float32(1e4), np.float32(-5e3))
    assert float(found) == pytest.approx(float(sigmoid_pairs(x, y, np.float32(10), np.float32(-3))), rel=1e-6)


def test_a_student_among_its_own_embeddings_is_info_nce():
    x, y = unit_rows(13), unit_rows(14)
    assert float(icl(x, y, S, x, y)) == pytest.approx(float(info_nce(x, y, S)), rel=1e-6)


def test_fusion_with_kernels_blind_to_the_teacher_is_info_nce():
    x, y, s, tx, ty, *_ = CASES["afd"].given(15)
    blind = np.concatenate([2 * np.eye(E), np.zeros((D, E))]).astype(np.float32)
    assert float(afd(x, y, s, tx, ty, blind, blind)) == pytest.approx(float(info_nce(x, y, s)), rel=1e-6)


@pytest.mark.parametrize("size", [E, D])
def test_the_weight_of_features_by_cosines_does_not_depend_on_the_size(size):
    x, y, tx, ty = (unit_rows(seed, size=size) for seed in range(4))
    assert 2000 * float(fd(x, y, tx, ty)) == pytest.approx(4000 / size * float(fd_cosine(x, y, tx, ty)), rel=1e-6)


@pytest.mark.parametrize("wrong", ["X", "Y"])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.free])
def test_sizes_that_differ_ask_for_a_projection(name, wrong):
    case = CASES[name]
    if wrong in case.args:
        with pytest.raises(
            ValueError, match=r"student have size 8, of the teacher 12: project the .* to 12, or .* crd"
        ):
            case.loss(*case.given(0, **{wrong: unit_rows(0, size=D)}))


def test_a_kernel_of_another_size():
    *given, _, kernel = CASES["afd"].given(0)
    with pytest.raises(
        ValueError, match=r"a fusion kernel of 13 rows, .* 8 \(student\) and 12 \(teacher\); give it 20"
    ):
        afd(*given, kernel[:13], kernel)
