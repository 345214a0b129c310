"""CLIP-RD's three losses against float64, and whom each of them teaches."""

import math

import numpy as np
import pytest

from clip_jax.losses import relational
from tests.losses.checks import (
    D,
    N,
    check_equal,
    check_finite,
    check_no_gradient,
    check_nothing,
    check_permutation,
    check_value_and_gradient,
    flat,
    loss_and_grads,
    same_captions,
    step_at,
    unit_rows,
)
from tests.losses.distillation_references import cross_entropy, kl

IMAGE_SCALE, TEXT_SCALE = np.float32(1 / 0.07), np.float32(5)
VRD, XRD = (0, 1, 2, 3), (0, 1, 3, 4)  # arguments cut by rows
vrd, vrd_ce = flat(relational.vrd, 2, 2, 2), flat(relational.vrd_ce, 2, 2, 2)
xrd = flat(relational.xrd, 3, 2)


def vrd_args(seed: int, count: int = N) -> list:
    return [*(unit_rows(seed + i, count) for i in range(4)), IMAGE_SCALE, TEXT_SCALE]


def xrd_args(seed: int, count: int = N) -> list:
    image, text, *teacher = (unit_rows(seed + i, count) for i in range(4))
    return [image, text, IMAGE_SCALE, *teacher]


def vrd_reference(image, text, teacher_image, teacher_text, image_scale, text_scale) -> float:
    a_image, a_text = image_scale * teacher_image @ image.T, text_scale * teacher_text @ text.T
    return (kl(a_text, a_image) + kl(a_text.T, a_image.T)) / 2


def vrd_ce_reference(image, text, teacher_image, teacher_text, image_scale, text_scale) -> float:
    a_image, a_text = image_scale * teacher_image @ image.T, text_scale * teacher_text @ text.T
    return sum(cross_entropy(logits) for logits in (a_image, a_image.T, a_text, a_text.T)) / 2


def xrd_reference(base):
    """Targets are held where `base` has them, as the stopped gradient does."""
    base = [np.asarray(arg, np.float64) for arg in base]

    def crossed(image, text, scale, teacher_image, teacher_text):
        return scale * teacher_image @ text.T, scale * teacher_text @ image.T

    def reference(*args) -> float:
        (x1, x2), (held1, held2) = crossed(*args), crossed(*base)
        return (kl(held2, x1) + kl(held1, x2) + kl(held1.T, x2.T) + kl(held2.T, x1.T)) / 4

    return reference


def test_vrd_equals_the_reference():
    check_value_and_gradient(vrd, vrd_reference, vrd_args(0), rows=VRD, differentiable=(0, 4))


def test_vrd_ce_equals_the_reference():
    check_value_and_gradient(vrd_ce, vrd_ce_reference, vrd_args(0), rows=VRD, differentiable=(0, 1, 4, 5))


def test_xrd_equals_the_reference():
    args = xrd_args(0)
    check_value_and_gradient(xrd, xrd_reference(args), args, rows=XRD, differentiable=(0, 1, 2))


def test_gradients_go_where_the_formula_lets_them():
    check_no_gradient(vrd, vrd_args(0), (1, 2, 3, 5), rows=VRD)
    check_no_gradient(vrd_ce, vrd_args(0), (2, 3), rows=VRD)
    check_no_gradient(xrd, xrd_args(0), (3, 4), rows=XRD)


def test_equal_relations_cost_nothing():
    """Where texts relate as images do; both modalities of a model that are one satisfy all."""
    image, teacher = unit_rows(1), unit_rows(2)
    check_nothing(vrd, [image, image, teacher, teacher, TEXT_SCALE, TEXT_SCALE], rows=VRD)
    check_nothing(xrd, [image, image, IMAGE_SCALE, teacher, teacher], rows=XRD)


def test_xrd_minds_the_scale_and_both_directions():
    args = xrd_args(3)
    value = loss_and_grads(xrd, XRD)(*args)[0]
    swapped = [args[1], args[0], args[2], args[4], args[3]]  # images and texts change places
    assert loss_and_grads(xrd, XRD)(*swapped)[0] == pytest.approx(float(value), rel=1e-5)
    args[2] = np.float32(0)
    check_nothing(xrd, args, rows=XRD)


@pytest.mark.parametrize("scale", [1e-6, 100.0, 1e4])
def test_scales(scale):
    args = vrd_args(4)
    args[4] = np.float32(scale)
    exact = {"rows": VRD, "grad_error": 1e-4, "step": step_at(scale)}
    check_value_and_gradient(vrd, vrd_reference, args, differentiable=(0,), **exact)
    check_finite(vrd_ce, [*args[:4], np.float32(scale), np.float32(scale)], rows=VRD)
    args = xrd_args(4)
    args[2] = np.float32(scale)
    exact["rows"] = XRD
    if scale > 1:  # below, a gradient of 1e-15 is lost in the noise of differences
        exact["grad_error"] = 1e-3
        check_value_and_gradient(xrd, xrd_reference(args), args, differentiable=(0, 1), **exact)
    check_finite(xrd, args, rows=XRD, meshes=((0, 0), (8, 1)))


def test_one_pair_costs_nothing():
    for loss, args, rows in ((vrd, vrd_args(5, 1), VRD), (vrd_ce, vrd_args(5, 1), VRD), (xrd, xrd_args(5, 1), XRD)):
        check_nothing(loss, args, rows=rows, meshes=((0, 0),))


def test_identical_pairs():
    args = vrd_args(6)
    same_captions(args, VRD)  # and images
    check_value_and_gradient(vrd, vrd_reference, args, rows=VRD, differentiable=(0, 4))
    same = [np.repeat(arg[:1], N, axis=0) if number in VRD else arg for number, arg in enumerate(args)]
    check_equal(loss_and_grads(vrd_ce, VRD, (8, 1))(*same), 2 * math.log(N), [None] * 6)
    check_nothing(vrd, same, rows=VRD)


@pytest.mark.parametrize("wrong", [2, 3])
def test_sizes_that_differ_ask_for_a_projection(wrong):
    for loss, args, number in ((vrd, vrd_args(7), wrong), (vrd_ce, vrd_args(7), wrong), (xrd, xrd_args(7), wrong + 1)):
        args[number] = unit_rows(0, size=D)
        with pytest.raises(ValueError, match=r"student have size 8, of the teacher 12: project the .* to 12"):
            loss(*args)


def test_permutation():
    check_permutation(vrd, vrd_args, rows=VRD)
    check_permutation(vrd_ce, vrd_args, rows=VRD)
    check_permutation(xrd, xrd_args, rows=XRD)
