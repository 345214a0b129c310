"""Students cut out of teachers: against hand-made trees, and by what a model whose lost parts are zero gives."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from clip_jax import tree
from clip_jax.experiment import Plan, TrainConfig
from clip_jax.inherit import InheritConfig, TowerChoice, inherit
from clip_jax.init_from import inheriting_state
from clip_jax.interop.write import TARGETS
from clip_jax.models.clip import CLIPConfig, abstract_params
from clip_jax.models.heads import narrowed
from clip_jax.models.resnet import ResNetConfig
from clip_jax.models.vit import resize_positions
from clip_jax.optim import OptimConfig
from clip_jax.plain import from_dict, to_dict
from tests.models import reference
from tests.models.test_siglip import CONFIG as SIGLIP
from tests.models.test_siglip import with_towers
from tests.models.test_towers import normalized

Tree = dict[str, Any]
ALL = InheritConfig()


def random_params(config: CLIPConfig, seed: int) -> Tree:
    rng = np.random.default_rng(seed)
    leaves = tree.leaves_by_path(abstract_params(config))
    return tree.nested(
        {path: (0.3 * rng.standard_normal(leaf.shape)).astype(np.float32) for path, leaf in leaves.items()}
    )


def with_embedding(config: CLIPConfig, size: int, **towers: Any) -> CLIPConfig:
    return dataclasses.replace(with_towers(config, **towers), embed_dim=size)


@pytest.fixture(scope="module")
def teacher(small: CLIPConfig) -> CLIPConfig:
    """Five layers of 4 heads of 8 in both towers."""
    return with_towers(small, vision={"layers": 5, "head_width": 8}, text={"layers": 5, "heads": 4})


@pytest.fixture(scope="module")
def given(teacher: CLIPConfig) -> Tree:
    return random_params(teacher, 1)


def assert_trees_equal(left: Tree, right: Tree) -> None:
    assert not tree.misfits(left, right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.parametrize("siglip", [False, True])
def test_all_of_a_teacher_is_the_teacher(teacher: CLIPConfig, siglip: bool):
    config = SIGLIP if siglip else teacher
    there = random_params(config, 1)
    assert_trees_equal(inherit(random_params(config, 2), config, there, config, ALL), there)


@pytest.mark.parametrize(("choice", "layers"), [((), [0, 2]), ((4, 1), [4, 1])])
def test_layers(teacher: CLIPConfig, given: Tree, choice: tuple[int, ...], layers: list[int]):
    student = with_towers(teacher, vision={"layers": 2}, text={"layers": 2})
    part = TowerChoice(layers=choice)
    found = inherit(random_params(student, 2), student, given, teacher, InheritConfig(image=part, text=part))
    wanted = {path: leaf[layers] if "/blocks/" in path else leaf for path, leaf in tree.leaves_by_path(given).items()}
    assert_trees_equal(found, tree.nested(wanted))


def test_one_tower_leaves_the_other_and_takes_the_scale(teacher: CLIPConfig, given: Tree):
    student = with_towers(teacher, vision={"layers": 2, "width": 16})
    fresh = random_params(student, 2) | {"distill": {"kernel": np.ones(3, np.float32)}}
    found = inherit(fresh, student, given, teacher, InheritConfig(image=TowerChoice(on=False)))
    assert_trees_equal(found["text"], given["text"])
    assert_trees_equal(found["visual"], fresh["visual"])
    assert found["logit_scale"] == given["logit_scale"]
    assert found["distill"] is fresh["distill"]


def test_channels_by_hand(teacher: CLIPConfig, given: Tree):
    """Half the channels with half the heads, every slice written out in NumPy."""
    student = with_embedding(teacher, 6, vision={"width": 16}, text={"width": 16, "heads": 2, "context_length": 5})
    keep = (3, 1, 0, 8, 30, 31, 16, 17, 20, 21, 22, 23, 24, 25, 26, 27)
    image = TowerChoice(channels=keep, heads=((3, 1),), units=(tuple(range(0, 128, 2)),))
    found = inherit(random_params(student, 2), student, given, teacher, InheritConfig(image=image))

    old, new = given["visual"], found["visual"]
    c = np.array(keep)
    rows = np.r_[24:32, 8:16]
    blocks = old["blocks"]
    qkv = blocks["attn"]["qkv"]
    for third in range(3):
        np.testing.assert_array_equal(
            new["blocks"]["attn"]["qkv"]["kernel"][:, :, third * 16 : third * 16 + 16],
            qkv["kernel"][:, c][:, :, third * 32 + rows],
        )
        np.testing.assert_array_equal(
            new["blocks"]["attn"]["qkv"]["bias"][:, third * 16 : third * 16 + 16], qkv["bias"][:, third * 32 + rows]
        )
    np.testing.assert_array_equal(
        new["blocks"]["attn"]["out"]["kernel"], blocks["attn"]["out"]["kernel"][:, rows][:, :, c]
    )
    np.testing.assert_array_equal(new["blocks"]["attn"]["out"]["bias"], blocks["attn"]["out"]["bias"][:, c])
    np.testing.assert_array_equal(new["blocks"]["mlp"]["fc"]["kernel"], blocks["mlp"]["fc"]["kernel"][:, c, ::2])
    np.testing.assert_array_equal(new["blocks"]["mlp"]["fc"]["bias"], blocks["mlp"]["fc"]["bias"][:, ::2])
    np.testing.assert_array_equal(
        new["blocks"]["mlp"]["proj"]["kernel"], blocks["mlp"]["proj"]["kernel"][:, ::2][:, :, c]
    )
    np.testing.assert_array_equal(new["blocks"]["ln_2"]["scale"], blocks["ln_2"]["scale"][:, c])
    for name in ("class_embedding", "positional_embedding"):
        np.testing.assert_array_equal(new[name], old[name][..., c])
    np.testing.assert_array_equal(new["patch_embedding"]["kernel"], old["patch_embedding"]["kernel"][:, c])
    np.testing.assert_array_equal(new["ln_pre"]["bias"], old["ln_pre"]["bias"][c])
    np.testing.assert_array_equal(new["proj"]["kernel"], old["proj"]["kernel"][c, :6])

    old, new = given["text"], found["text"]
    np.testing.assert_array_equal(new["token_embedding"], old["token_embedding"][:, :16])
    np.testing.assert_array_equal(new["positional_embedding"], old["positional_embedding"][:5, :16])
    np.testing.assert_array_equal(new["ln_final"]["scale"], old["ln_final"]["scale"][:16])
    np.testing.assert_array_equal(new["proj"]["kernel"], old["proj"]["kernel"][:16, :6])


def test_another_grid_resizes_positions(teacher: CLIPConfig, given: Tree):
    student = with_towers(teacher, vision={"image_size": 32})
    found = inherit(random_params(student, 2), student, given, teacher, ALL)
    wanted = resize_positions(given["visual"]["positional_embedding"], 4)
    np.testing.assert_array_equal(found["visual"]["positional_embedding"], wanted)


def embeddings(config: CLIPConfig, params: Tree, batch: Tree) -> tuple[np.ndarray, np.ndarray]:
    image = reference.image_embeddings(config, params, normalized(config, batch["image"][:4]))
    return image, reference.text_embeddings(config, params, batch["text"][:4])


def test_lost_units_that_were_zero_change_nothing(teacher: CLIPConfig, small_batch: Tree):
    """Units whose outgoing weights are zero, others in each layer; the outputs are the towers' in float64."""
    params = random_params(teacher, 3)
    rng = np.random.default_rng(0)
    parts = {}
    for name in ("visual", "text"):
        kept = [tuple(map(int, rng.permutation(128)[:40])) for _ in range(5)]
        kernel = params[name]["blocks"]["mlp"]["proj"]["kernel"]
        for layer, units in enumerate(kept):
            kernel[layer, np.setdiff1d(np.arange(128), units)] = 0
        parts[name] = TowerChoice(units=tuple(kept))
    student = with_towers(teacher, vision={"mlp_ratio": 1.25}, text={"mlp_ratio": 1.25})
    choice = InheritConfig(image=parts["visual"], text=parts["text"])
    found = inherit(random_params(student, 2), student, params, teacher, choice)
    for before, after in zip(
        embeddings(teacher, params, small_batch), embeddings(student, found, small_batch), strict=True
    ):
        np.testing.assert_allclose(after, before, atol=1e-12)


@pytest.mark.parametrize(("heads", "chosen"), [(8, ()), (4, ()), (4, ((2, 0, 1, 3),))])
def test_smaller_heads_keep_what_fits_into_them(
    teacher: CLIPConfig, small_batch: Tree, heads: int, chosen: tuple[tuple[int, ...], ...]
):
    """Half the width: 4 heads of 4 for 4 heads of 8, or 8 heads of 2 with two for one. The teacher lies in the first 16
    channels, where the other 16 copy them, so that norms keep their statistics; its heads' products have rank 4 (2)."""
    teacher = with_towers(teacher, vision={"layers": 1}, text={"layers": 1})
    size = 16 // heads
    params = random_params(teacher, 4)
    for name in ("visual", "text"):
        block = params[name]["blocks"]
        qkv, out = (block["attn"][part] for part in ("qkv", "out"))
        kernel, bias = (qkv[part].reshape(-1, 3, 4, 8) for part in ("kernel", "bias"))
        turn = np.linalg.qr(np.random.default_rng(1).standard_normal((8, 8)))[0].astype(np.float32)
        for third, rank in ((0, size), (1, size), (2, 4)):  # two heads that share their scores bring 2 x 2 values
            for array in (kernel, bias):
                array[:, third, :, rank:] = 0
                array[:, third] = array[:, third] @ turn
        assert np.linalg.matrix_rank(kernel[:, 0, 0]) == size
        for leaf, axis in ((out["kernel"], 2), (out["bias"], 1), (block["mlp"]["proj"]["kernel"], 2)):
            view = np.moveaxis(leaf, axis, 0)
            view[16:] = view[:16]
        for path, leaf in tree.leaves_by_path(params[name]).items():
            if path.startswith(("class", "pos", "token_e", "patch", "ln_pre")) or path == "blocks/mlp/proj/bias":
                leaf[..., 16:] = leaf[..., :16]
        for path in ("ln_1", "ln_2"):
            for leaf in block[path].values():
                leaf[:, 16:] = 0
        last = params[name]["ln_post" if name == "visual" else "ln_final"]
        for leaf in last.values():
            leaf[16:] = 0
    vision, text = {"width": 16, "head_width": size, "mlp_ratio": 8.0}, {"width": 16, "heads": heads, "mlp_ratio": 8.0}
    student = with_towers(teacher, vision=vision, text=text)
    part = TowerChoice(heads=chosen)
    found = inherit(random_params(student, 2), student, params, teacher, InheritConfig(image=part, text=part))
    for before, after in zip(
        embeddings(teacher, params, small_batch), embeddings(student, found, small_batch), strict=True
    ):
        np.testing.assert_allclose(after, before, atol=1e-5)


def test_heads_are_nearest_in_their_products():
    rng = np.random.default_rng(0)
    kernel, bias, out = (rng.standard_normal(s).astype(np.float32) for s in ((10, 3, 2, 6), (3, 2, 6), (2, 6, 10)))
    new_kernel, new_bias, new_out = narrowed(kernel, bias, out, 3, [0, 0])
    for head in range(2):
        for a, b, new_a, new_b, scale in (
            (
                np.vstack([kernel[:, 0, head], bias[0, head]]),
                np.vstack([kernel[:, 1, head], bias[1, head]]),
                np.vstack([new_kernel[:, 0, head], new_bias[0, head]]),
                np.vstack([new_kernel[:, 1, head], new_bias[1, head]]),
                np.sqrt(6 / 3),
            ),
            (
                np.vstack([kernel[:, 2, head], bias[2, head]]),
                out[head].T,
                np.vstack([new_kernel[:, 2, head], new_bias[2, head]]),
                new_out[head].T,
                1.0,
            ),
        ):
            left = np.linalg.norm(a @ b.T - scale * new_a @ new_b.T)
            least = np.sqrt((np.linalg.svd(a.astype(np.float64) @ b.T)[1][3:] ** 2).sum())
            np.testing.assert_allclose(left, least, rtol=1e-5)


def test_lost_heads_that_were_zero_change_nothing(small_batch: Tree, teacher: CLIPConfig):
    """Heads are lost with the width; the lost channels are copies of kept ones that nothing reads."""
    teacher = with_towers(teacher, vision={"layers": 2}, text={"layers": 2})
    params = random_params(teacher, 5)
    heads = ((2, 0), (1, 3))
    kept = tuple(range(1, 32, 2))
    for name in ("visual", "text"):
        block = params[name]["blocks"]
        for layer, row in enumerate(heads):
            for head in set(range(4)) - set(row):
                block["attn"]["out"]["kernel"][layer, head * 8 : head * 8 + 8] = 0
        writes = [leaf for path, leaf in tree.leaves_by_path(params[name]).items() if _writes(path)]
        for leaf in writes:
            leaf[..., ::2] = leaf[..., 1::2]
        reads = [block["ln_1"], block["ln_2"], params[name]["ln_post" if name == "visual" else "ln_final"]]
        for norm in reads:
            for leaf in norm.values():
                leaf[..., ::2] = 0
    student = with_towers(
        teacher, vision={"width": 16, "mlp_ratio": 8.0}, text={"width": 16, "heads": 2, "mlp_ratio": 8.0}
    )
    part = TowerChoice(heads=heads, channels=kept)
    found = inherit(random_params(student, 2), student, params, teacher, InheritConfig(image=part, text=part))
    for before, after in zip(
        embeddings(teacher, params, small_batch), embeddings(student, found, small_batch), strict=True
    ):
        np.testing.assert_allclose(after, before, atol=1e-12)


def _writes(path: str) -> bool:
    return path.startswith(("class", "pos", "token_e", "patch", "ln_pre", "blocks/attn/out", "blocks/mlp/proj"))


def test_siglip_is_cut_along_with_its_pool():
    student = with_embedding(SIGLIP, 16, vision={"width": 16, "layers": 1, "mlp_ratio": 2.0}, text={"layers": 1})
    given = random_params(SIGLIP, 1)
    keep = tuple(range(31, 15, -1))
    image = TowerChoice(heads=((1,),), channels=keep)
    found = inherit(random_params(student, 2), student, given, SIGLIP, InheritConfig(image=image, embedding=keep))
    c = np.array(keep)
    old, new = given["visual"]["head"], found["visual"]["head"]
    np.testing.assert_array_equal(new["probe"], old["probe"][c])
    np.testing.assert_array_equal(new["qkv"]["kernel"][:, 16:32], old["qkv"]["kernel"][c, 48:64])
    np.testing.assert_array_equal(new["out"]["kernel"], old["out"]["kernel"][16:][:, c])
    np.testing.assert_array_equal(new["mlp"]["fc"]["kernel"], old["mlp"]["fc"]["kernel"][c, :32])
    np.testing.assert_array_equal(found["text"]["proj"]["bias"], given["text"]["proj"]["bias"][c])
    assert found["logit_bias"] == given["logit_bias"]
    with pytest.raises(ValueError, match=r"image\.channels differ from inherit\.embedding"):
        inherit(random_params(student, 2), student, given, SIGLIP, InheritConfig(image=image))


IMAGE = {"image_size": 32, "layers": (1, 1, 1, 1), "width": 4}


def test_a_resnet_is_copied_or_refused(small: CLIPConfig):
    whole = dataclasses.replace(small, vision_cfg=ResNetConfig(**IMAGE))
    given = random_params(whole, 1)
    assert_trees_equal(inherit(random_params(whole, 2), whole, given, whole, ALL), given)
    half = dataclasses.replace(small, vision_cfg=ResNetConfig(**IMAGE | {"width": 2}))
    with pytest.raises(ValueError, match="a ResNet is inherited whole or not at all"):
        inherit(random_params(half, 2), half, given, whole, ALL)
    with pytest.raises(ValueError, match="a VisionConfig here, a ResNetConfig there"):
        inherit(random_params(small, 2), small, given, whole, ALL)


@pytest.mark.parametrize(
    ("student", "choice", "said"),
    [
        ({"vision": {"layers": 6}}, {}, "image layers is 6 in the student and 5 in the teacher; at most 5"),
        ({"vision": {"width": 40}}, {}, "image width is 40"),
        ({"text": {"mlp_ratio": 5.0}}, {}, "text hidden is 160"),
        ({"text": {"context_length": 9}}, {}, "context_length is 9"),
        ({"text": {"heads": 2}}, {}, "text head size is 16 in the student and 8"),
        ({"size": 17}, {}, "embed_dim is 17"),
        ({"vision": {"patch_size": 4}}, {}, r"vision_cfg\.patch_size: 4 here, 8 there"),
        ({"text": {"vocab_size": 65}}, {}, r"text_cfg\.vocab_size: 65 here, 64 there"),
        ({"text": {"gelu_approximate": "tanh"}}, {}, r"gelu_approximate: tanh here"),
        ({"quick_gelu": True}, {}, "quick_gelu: True here, False there"),
        ({}, {"image": {"layers": (0, 1)}}, r"inherit\.image\.layers names 2 .* the student has 5"),
        ({"vision": {"layers": 2}}, {"image": {"layers": (0, 5)}}, "names 5; .* from 0 to 4"),
        ({"vision": {"layers": 2}}, {"image": {"layers": (3, 3)}}, "names 3 2 times; name each at most once"),
        ({}, {"text": {"heads": ((0, 1, 2, 3),) * 2}}, "has 2 rows; give one for all layers, or one for each of 5"),
        ({"text": {"width": 16}}, {"text": {"heads": ((0, 0, 0, 1),)}}, "0 3 times; name each at most 2 times"),
        ({}, {"image": {"on": False}, "text": {"on": False}}, "both off"),
    ],
)
def test_refusals(teacher: CLIPConfig, given: Tree, student: Tree, choice: Tree, said: str):
    towers = {name: student[name] for name in ("vision", "text") if name in student}
    config = with_embedding(teacher, student.get("size", 16), **towers)
    config = dataclasses.replace(config, quick_gelu=student.get("quick_gelu", False))
    with pytest.raises(ValueError, match=said):
        inherit(random_params(config, 2), config, given, teacher, from_dict(InheritConfig, choice))


def test_a_choice_survives_config_files():
    choice = InheritConfig(model="x", image=TowerChoice(layers=(0, 2), heads=((0, 1), (2, 3))), embedding=(1,))
    assert from_dict(InheritConfig, to_dict(choice)) == choice


def test_a_state_that_inherits(teacher: CLIPConfig, tmp_path: Path):
    teacher = with_towers(teacher, text={"vocab_size": 49408})
    given = random_params(teacher, 1)
    folder = tmp_path / "teacher"
    folder.mkdir()
    TARGETS["clip_jax"](folder, teacher, given, {})
    student = with_towers(teacher, vision={"layers": 2, "width": 16})
    optim = OptimConfig(warmup_steps=1, ema_decay=0.9)
    plan = Plan(TrainConfig(model=student, batch_size=8, optim=optim))
    choice = InheritConfig(model=str(folder), image=TowerChoice(on=False))
    state = inheriting_state(plan, choice)
    wanted = inherit(jax.device_get(plan.initial_state().params), student, given, teacher, choice)
    assert_trees_equal(jax.device_get(state.params), wanted)
    assert state.ema is not None
    assert_trees_equal(jax.device_get(state.ema), wanted)
    assert not tree.misfits(state, plan.state)

    whole = InheritConfig(model=str(folder))
    state = inheriting_state(plan, whole)
    assert_trees_equal(jax.device_get(state.params), inherit(wanted, student, given, teacher, whole))
    larger = Plan(TrainConfig(model=with_towers(teacher, vision={"layers": 6}), batch_size=8, optim=optim))
    with pytest.raises(ValueError, match=r"inherit\.model .*teacher: image layers is 6"):
        inheriting_state(larger, whole)
