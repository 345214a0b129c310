"""What distillation terms learn beside the towers: which heads there are, their shapes, first values and products."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clip_jax.objectives import ObjectiveConfig, heads_of
from clip_jax.projections import Sizes, init_heads, project
from clip_jax.teachers import Offer, StoreTeacher
from clip_jax.terms import TERMS, TermOptions

SIZES = Sizes(student=6, teacher=10, projected=10, classes=4)
EVERY = {
    "image_projection": {"kernel": (6, 10), "bias": (10,)},
    "text_projection": {"kernel": (6, 10), "bias": (10,)},
    "centroid_projection": {"kernel": (10, 6), "bias": (6,)},
    "classifier": {"kernel": (6, 4), "bias": (4,)},
    "image_fusion": {"kernel": (20, 6)},
    "text_fusion": {"kernel": (20, 6)},
    "icl_scale": (),
}


def test_shapes_and_first_values() -> None:
    heads = init_heads(EVERY, SIZES, jax.random.key(0))
    assert jax.tree.map(jnp.shape, heads) == EVERY
    assert {leaf.dtype for leaf in jax.tree.leaves(heads)} == {jnp.dtype("float32")}
    assert float(heads["icl_scale"]) == pytest.approx(math.log(1 / 0.07))
    assert not any(np.any(head["bias"]) for head in heads.values() if isinstance(head, dict) and "bias" in head)
    assert not np.array_equal(heads["image_projection"]["kernel"], heads["text_projection"]["kernel"])
    wide = init_heads(
        ["image_projection"], Sizes(student=256, teacher=300, projected=300, classes=0), jax.random.key(1)
    )
    assert float(jnp.std(wide["image_projection"]["kernel"])) == pytest.approx(1 / 16, rel=0.02)  # keeps the length


def test_the_names_of_terms_heads_are_known() -> None:
    named = {head for term in TERMS.values() for head in term.heads}
    assert named - set(EVERY) == {head for head in named if head.endswith("_scale")} - {"icl_scale"}
    init_heads(named, SIZES, jax.random.key(0))


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_project_is_the_unit_vector_of_an_affine_map(dtype: type) -> None:
    rng = np.random.default_rng(0)
    features = (3 * rng.standard_normal((5, 6))).astype(dtype)
    head = {"kernel": rng.standard_normal((6, 10)), "bias": rng.standard_normal(10)}
    mapped = np.asarray(features, np.float64) @ head["kernel"] + head["bias"]
    wanted = mapped / np.linalg.norm(mapped, axis=1, keepdims=True)
    found = project(jnp.asarray(features), {name: jnp.asarray(leaf, jnp.float32) for name, leaf in head.items()})
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("weights", "size", "side", "heads"),
    [
        ({"crd": 1.0, "reinforcement": 1.0}, 10, "teacher", set()),
        ({"fd": 2000.0, "info_nce": 1.0}, 6, "teacher", set()),
        ({"fd": 2000.0}, 10, "teacher", {"image_projection", "text_projection"}),
        ({"image_mse": 1.0}, 10, "teacher", {"image_projection"}),
        ({"afd": 1.0}, 6, "teacher", {"image_fusion", "text_fusion", "fusion_scale"}),
        ({"centroid": 1.0}, 10, "teacher", {"centroid_projection", "centroid_scale"}),
        ({"centroid": 1.0}, 10, "student", {"image_projection", "centroid_scale"}),
        ({"centroid": 1.0}, 6, "student", {"centroid_scale"}),
        ({"fd": 0.0, "crd": 1.0}, 10, "teacher", set()),
        ({"xrd": 1.0, "icl": 0.5}, 6, "teacher", {"cross_relation_scale", "icl_scale"}),
    ],
)
def test_heads_are_those_that_the_terms_need(weights: dict[str, float], size: int, side: Any, heads: set[str]) -> None:
    goal = ObjectiveConfig(weights=weights, options=TermOptions(centroid_side=side))
    offer = Offer(embed_dim=size, classes=4)
    found, sizes = heads_of(goal, "t", {"t": StoreTeacher(path="")}, offer, 6)
    assert found == heads
    projected = size if "image_projection" in heads else 6
    assert sizes == Sizes(student=6, teacher=size, projected=projected, classes=4)


def test_a_teacher_has_heads_of_its_own_losses_alone() -> None:
    goal = ObjectiveConfig(weights={"icl": 1.0, "xrd": 1.0})
    teachers = {"one": StoreTeacher(path="", losses=("icl",)), "two": StoreTeacher(path="", losses=("xrd",))}
    found = {name: heads_of(goal, name, teachers, Offer(embed_dim=6), 6)[0] for name in teachers}
    assert found == {"one": {"icl_scale"}, "two": {"cross_relation_scale"}}
