"""Objectives: every term at once in the real step, each equal to its loss by hand; placement, schedules, and what is refused."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from clip_jax import experiment, sharding, tree
from clip_jax.experiment import Plan, TrainConfig
from clip_jax.losses.anchors import cross_kd, icl
from clip_jax.losses.centroids import centroid, classification, full_teacher
from clip_jax.losses.confidence import csd_features, csd_relations
from clip_jax.losses.contrastive import info_nce
from clip_jax.losses.dark import dark_match, dark_rest
from clip_jax.losses.features import fd, fd_cosine, image_cosine, image_l1, image_mse
from clip_jax.losses.fusion import afd
from clip_jax.losses.gradients import gd
from clip_jax.losses.pairs import Pairs
from clip_jax.losses.relational import vrd, vrd_ce, xrd
from clip_jax.losses.robust import drrho
from clip_jax.losses.sigmoid import sigmoid_pairs
from clip_jax.losses.similarities import affinity, crd, reinforcement, sigmoid_distillation
from clip_jax.models.clip import MAX_LOGIT_SCALE, bind, noise_for, towers_of, unit
from clip_jax.models.resnet import ResNetConfig
from clip_jax.objectives import Features, ObjectiveConfig, Ramp, heads_of, objective, weight_at
from clip_jax.optim import OptimConfig, layer_rates
from clip_jax.projections import SCALE, init_heads
from clip_jax.sharding import MeshConfig
from clip_jax.teachers import AverageTeacher, Offer, StoreTeacher, Targets
from clip_jax.terms import TERMS, TermOptions
from tests.conftest import QUICK_COMPILE, SMALL, compiled_step, random_batch

MODEL = dataclasses.replace(SMALL, init_logit_bias=-5.0)
BATCH, CLASSES, STEPS = 16, 5, 3
SUBSET = ("crd", "afd", "reinforcement", "centroid")
# "wide" is of another size and serves all; "alike" is of the student's; "eyes" gives no text.
TEACHERS = {
    "wide": StoreTeacher(path="", weight=0.7),
    "alike": StoreTeacher(path="", weight=1.5, losses=SUBSET),
    "eyes": StoreTeacher(path="", losses=("image_mse", "image_cosine")),
}
OFFERS = {
    "wide": Offer(embed_dim=24, synthetic=True, has_bias=True, classes=CLASSES),
    "alike": Offer(embed_dim=16, synthetic=True, has_bias=True, classes=CLASSES),
    "eyes": Offer(embed_dim=16, text=False),
}
RAMPS = {"info_nce": Ramp(start=1.0, end=0.5, last=2), "dark_rest": Ramp(start=0.5, end=-0.8, first=1, last=3)}
WEIGHTS: dict[str, float | Ramp] = {name: 0.1 + 0.03 * number for number, name in enumerate(TERMS)} | RAMPS
OPTIONS = TermOptions(
    affinity_scale=30.0, mask_ratio=0.5, huber_delta=0.7, drrho_temperature=0.05, dark_temperature=4.0
)
GOAL = ObjectiveConfig(weights=WEIGHTS, options=OPTIONS)


def plan_with_everything(mesh: MeshConfig, devices: int, **given: Any) -> Plan:
    """`dark_rest` wants a model without bias, and others one with: the check that says so is left out."""
    config = TrainConfig(
        model=MODEL,
        steps=20,
        batch_size=BATCH,
        mesh=dataclasses.replace(mesh, fsdp_min_size=512),
        objective=GOAL,
        teachers=TEACHERS,
        optim=OptimConfig(lr=1e-3, schedule="constant", warmup_steps=4, ema_decay=0.9),
        **given,
    )
    first = jax.devices()[:devices]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: first)
        patch.setattr(experiment, "check_objective", lambda *args, **given: None)
        return Plan(config, OFFERS)


def rows(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Unit vectors as they come out of bf16: not quite."""
    vectors = rng.standard_normal((count, size))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(jnp.bfloat16).astype(np.float32)


def batch_of(seed: int) -> dict[str, Any]:
    """Host arrays for the step, with targets of all three teachers."""
    rng = np.random.default_rng(seed)
    targets = {}
    for number, (name, offer) in enumerate(OFFERS.items()):
        texts = {key: rows(rng, BATCH, offer.embed_dim) for key in ("text", "synthetic")} if offer.text else {}
        targets[name] = Targets(
            image=rows(rng, BATCH, offer.embed_dim),
            scale=np.float32(20 + 10 * number),
            bias=np.float32(-3 - number),
            centroids=rows(rng, CLASSES, offer.embed_dim) if offer.classes else None,
            **texts,
        )
    more = {"synthetic": random_batch(MODEL, BATCH, seed + 100)["text"], "targets": targets}
    return random_batch(MODEL, BATCH, seed) | more | {"label": rng.integers(-1, CLASSES, BATCH).astype(np.int32)}


def placed(plan: Plan, batch: dict[str, Any]) -> Any:
    return jax.tree.map(lambda array, like: jax.device_put(array, like.sharding), batch, plan.batch())


def run(plan: Plan, step: Any, start: Any) -> tuple[list[dict[str, float]], list[Any]]:
    """Metrics of each step, and the states around them."""
    state, metrics, states = jax.device_put(start, plan.shardings, may_alias=False), [], [start]
    for seed in range(STEPS):
        batch = placed(plan, batch_of(seed))
        with jax.transfer_guard("disallow"):
            state, found = step(state, batch)
        metrics.append({name: float(value) for name, value in found.items()})
        states.append(jax.device_get(state))
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == plan.shardings
    return metrics, states


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_with_everything(MeshConfig(data=4, fsdp=2), 8)


@pytest.fixture(scope="module")
def step(plan: Plan) -> Any:
    return compiled_step(plan)


@pytest.fixture(scope="module")
def start(plan: Plan) -> Any:
    return jax.device_get(plan.initial_state())


@pytest.fixture(scope="module")
def done(plan: Plan, step: Any, start: Any) -> tuple[list[dict[str, float]], list[Any]]:
    return run(plan, step, start)


def by_hand(params: Any, batch: Any, number: jax.Array) -> dict[str, jax.Array]:
    """Each term's value, and those against each teacher, from the losses themselves on one device."""
    clip, key = bind(MODEL, towers_of(params)), jax.random.fold_in(jax.random.key(0), number)
    noise, hidden = (noise_for(MODEL, BATCH, one) for one in (key, jax.random.fold_in(key, 1)))
    raw_image, raw_text = clip.image_features(batch["image"], noise), clip.text_features(batch["text"])
    raw_masked = clip.image_features(batch["image"], hidden, patch_dropout=0.5)
    x, y, z = unit(raw_image), unit(raw_text), unit(clip.text_features(batch["synthetic"]))
    s, label = clip.scale(), batch["label"]
    pairs, synthetic = Pairs(x, y, s, clip.bias()), Pairs(x, z, s)

    def against(name: str) -> dict[str, Any]:
        told, heads = batch["targets"][name], params["distill"].get(name, {})

        def at_their_size(features: jax.Array, head: str) -> jax.Array:
            if head not in heads:
                return unit(features)
            return unit(jnp.matmul(features, heads[head]["kernel"], precision="highest") + heads[head]["bias"][None])

        def k(head: str) -> jax.Array:
            return jnp.exp(heads[head])

        def kernels() -> tuple[jax.Array, jax.Array]:
            return heads["image_fusion"]["kernel"], heads["text_fusion"]["kernel"]

        def centers() -> jax.Array:
            head = heads["centroid_projection"]
            centers = jnp.matmul(unit(told.centroids), head["kernel"], precision="highest")
            return unit(centers + head["bias"][None])

        def classes() -> jax.Array:
            head = heads["classifier"]
            return jnp.matmul(x, head["kernel"], precision="highest") + head["bias"][None]

        u, v, m = (
            at_their_size(raw_image, "image_projection"),
            at_their_size(raw_text, "text_projection"),
            at_their_size(raw_masked, "image_projection"),
        )
        big_x, big_s, big_b = unit(told.image), told.scale, told.bias
        big_y = None if told.text is None else unit(told.text)
        big = Pairs(big_x, big_y, big_s, big_b)
        values: dict[str, Any] = {
            "crd": lambda: crd(pairs, big),
            "fd": lambda: fd((u, v), (big_x, big_y)),
            "fd_cosine": lambda: fd_cosine((u, v), (big_x, big_y)),
            "mfd": lambda: fd((m, v), (big_x, big_y)),
            "gd": lambda: gd(Pairs(u, v, s), big),
            "icl": lambda: icl(Pairs(u, v, k("icl_scale")), (big_x, big_y)),
            "afd": lambda: afd(Pairs(u, v, k("fusion_scale")), (big_x, big_y), *kernels()),
            "cross_kd": lambda: cross_kd(Pairs(u, v, k("cross_scale")), big),
            "centroid": lambda: centroid(x, label, centers(), k("centroid_scale")),
            "classification": lambda: classification(classes(), label),
            "full_teacher": lambda: full_teacher(u, big_x, k("full_teacher_scale")),
            "affinity": lambda: affinity(Pairs(x, y, jnp.float32(30)), Pairs(big_x, big_y, jnp.float32(30))),
            "sigmoid_distillation": lambda: sigmoid_distillation(pairs, big),
            "image_l1": lambda: image_l1(u, big_x),
            "image_mse": lambda: image_mse(u, big_x),
            "image_cosine": lambda: image_cosine(u, big_x),
            "csd_features": lambda: csd_features((u, v), big, delta=0.7),
            "csd_relations": lambda: csd_relations(pairs, big),
            "drrho": lambda: drrho((x, y), (big_x, big_y), temperature=0.05),
            "vrd": lambda: vrd((u, v), (big_x, big_y), (k("vertical_image_scale"), k("vertical_text_scale"))),
            "vrd_ce": lambda: vrd_ce((u, v), (big_x, big_y), (k("vertical_image_scale"), k("vertical_text_scale"))),
            "xrd": lambda: xrd(Pairs(u, v, k("cross_relation_scale")), (big_x, big_y)),
            "dark_match": lambda: dark_match(pairs, big, temperature=4.0),
            "dark_rest": lambda: dark_rest(pairs, big, temperature=4.0),
        }
        served = TEACHERS[name].losses or values
        return {loss: values[loss]() for loss in served if loss in values}

    of = {name: against(name) for name in TEACHERS}
    found = {
        "info_nce": info_nce(pairs),
        "info_nce_synthetic": info_nce(synthetic),
        "sigmoid": sigmoid_pairs(pairs),
    }
    for loss in of["wide"]:
        each = {name: values[loss] for name, values in of.items() if loss in values}
        found[loss] = sum((TEACHERS[name].weight * value for name, value in each.items()), jnp.float32(0))
        found |= {f"{loss}/{name}": value for name, value in each.items()}
    told = [(batch["targets"][name], TEACHERS[name].weight) for name in ("wide", "alike")]
    teachers = [(Pairs(unit(t.image), unit(t.text), t.scale), weight) for t, weight in told]
    found["reinforcement"] = reinforcement(pairs, teachers)
    wide = told[0][0]
    teacher = Pairs(unit(wide.image), unit(wide.synthetic), wide.scale)
    found["reinforcement_synthetic"] = reinforcement(synthetic, [(teacher, 0.7)])
    return found


def test_each_raw_value_is_its_loss_and_the_total_their_weighted_sum(
    done: tuple[list[dict[str, float]], list[Any]],
) -> None:
    metrics, states = done
    first = jax.devices()[0]
    given = jax.device_put((states[0].params, batch_of(0), jnp.int32(0)), first)
    reference = jax.jit(by_hand).lower(*given).compile(QUICK_COMPILE)
    for number in range(STEPS):
        wanted = reference(*jax.device_put((states[number].params, batch_of(number), jnp.int32(number)), first))
        assert set(TERMS) <= set(wanted)
        for name, value in wanted.items():
            assert metrics[number][name] == pytest.approx(float(value), rel=2e-5, abs=1e-7), (number, name)
        weights = {name: weight for name, weight in WEIGHTS.items() if name not in RAMPS}
        weights["info_nce"] = float(np.interp(number, [0, 2], [1.0, 0.5]))
        weights["dark_rest"] = float(np.interp(number, [1, 3], [0.5, -0.8]))
        total = sum(weight * metrics[number][name] for name, weight in weights.items())
        assert metrics[number]["loss"] == pytest.approx(total, rel=1e-5)
    known = {"loss", "grad_norm", "logit_scale", "logit_bias", "lr", "skipped", "skipped_in_row", "replaced"}
    assert set(metrics[0]) == set(wanted) | known
    assert metrics[-1]["skipped"] == 0
    assert len({figures["loss"] for figures in metrics}) == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_however_the_batch_and_the_model_are_cut_they_train_alike(
    devices: int, done: tuple[list[dict[str, float]], list[Any]], start: Any
) -> None:
    plan = plan_with_everything(MeshConfig(), devices)
    metrics, _ = run(plan, compiled_step(plan), start)
    for found, wanted in zip(metrics, done[0], strict=True):
        assert found == {name: pytest.approx(value, rel=1e-4, abs=1e-6) for name, value in wanted.items()}


def test_heads_are_copied_to_all_devices_where_the_towers_are_cut(plan: Plan) -> None:
    heads = [leaf for path, leaf in tree.leaves_by_path(plan.state).items() if "distill/" in path]
    assert len(heads) > 4 * 20  # parameters, average and two moments
    assert max(int(np.prod(leaf.shape)) for leaf in heads) > 512  # which would be cut in a tower
    assert {leaf.sharding.spec for leaf in heads} == {PartitionSpec()}
    assert any(leaf.sharding.spec != PartitionSpec() for leaf in jax.tree.leaves(plan.state))


def test_heads_are_trained_and_averaged(done: tuple[list[dict[str, float]], list[Any]]) -> None:
    _, (before, one, two, _) = done
    leaves = [jax.tree.leaves(params["distill"]) for params in (before.params, one.params, two.params, two.ema)]
    assert len(leaves[0]) > 20
    for first, second, third, average in zip(*leaves, strict=True):
        assert not np.array_equal(first, second)
        expected = first + (1 - 1 / 10) * (second - first)  # decay 1/10, then 2/11
        np.testing.assert_allclose(average, expected + (1 - 2 / 11) * (third - expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("given", "kept"), [(6.0, MAX_LOGIT_SCALE), (-1.0, 0.0)])
def test_learned_factors_are_clamped(plan: Plan, step: Any, start: Any, given: float, kept: float) -> None:
    def pushed(path: str, leaf: np.ndarray) -> np.ndarray:
        return np.float32(given) if path.startswith("distill/") and path.endswith(SCALE) else leaf

    state = dataclasses.replace(start, params=tree.map_with_path(pushed, start.params))
    after, metrics = step(jax.device_put(state, plan.shardings, may_alias=False), placed(plan, batch_of(0)))
    assert float(metrics["skipped"]) == 0
    found = {path: leaf for path, leaf in tree.leaves_by_path(after.params).items() if path.endswith(SCALE)}
    assert {float(leaf) for path, leaf in found.items() if path.startswith("distill/")} == {float(np.float32(kept))}
    assert sum(path.startswith("distill/") for path in found) == 10
    assert float(found["logit_scale"]) == pytest.approx(math.log(1 / 0.07), rel=1e-2)


def features(seed: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    drawn: Any = [rng.standard_normal((BATCH, 16)).astype(np.float32) for _ in range(4)]
    names = ("image", "text", "synthetic", "masked")
    label = rng.integers(-1, CLASSES, BATCH).astype(np.int32)
    return Features(**dict(zip(names, drawn, strict=True)), scale=np.float32(14), bias=np.float32(-2), label=label)


def heads_for(goal: ObjectiveConfig, teachers: Mapping[str, Any] = TEACHERS) -> dict[str, Any]:
    found = {}
    for name, offer in OFFERS.items():
        if name in teachers:
            names, sizes = heads_of(goal, name, teachers, offer, 16)
            found[name] = init_heads(names, sizes, jax.random.key(3))
    return found


def compute(goal: ObjectiveConfig, mesh: Any, pupil: Any, targets: Any, heads: Any, teachers: Any = TEACHERS) -> Any:
    names = [field.name for field in dataclasses.fields(Features)]

    def call(pupil: Any, targets: Any, heads: Any) -> Any:
        student = Features(**dict(zip(names, pupil, strict=True)))
        given = {"teachers": teachers, "targets": targets, "heads": heads, "step": jnp.int32(0)}
        return objective(goal, mesh, student, **given)

    return call, (tuple(getattr(pupil, name) for name in names), targets, heads)


def test_gradients_reach_the_student_and_the_heads_and_no_teacher(mesh1: Any) -> None:
    goal = ObjectiveConfig(weights={"crd": 1.0, "fd": 1.0, "icl": 1.0, "afd": 1.0, "csd_features": 1.0})
    goal = dataclasses.replace(goal, weights={**goal.weights, "classification": 1.0, "sigmoid_distillation": 1.0})
    teachers = {"wide": TEACHERS["wide"]}
    told = {"wide": batch_of(0)["targets"]["wide"]}
    call, (pupil, targets, heads) = compute(goal, mesh1, features(), told, heads_for(goal, teachers), teachers)
    *learning, unused, hidden, label = pupil

    def total(learning: Any, targets: Any, heads: Any) -> jax.Array:
        return call((*learning, unused, hidden, label), targets, heads)[0]

    gradient = jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(learning, targets, heads).compile(QUICK_COMPILE)
    of_student, of_targets, of_heads = gradient(learning, targets, heads)
    for path, leaf in tree.leaves_by_path({"student": of_student, "heads": of_heads}).items():
        assert np.isfinite(leaf).all(), path
        assert np.any(np.asarray(leaf) != 0), path
    for path, leaf in tree.leaves_by_path(of_targets).items():
        assert not np.any(leaf), path


def test_options_change_the_terms_they_name(mesh1: Any) -> None:
    teachers, weights = {"wide": StoreTeacher(path="")}, {"icl": 1.0, "affinity": 1.0, "centroid": 1.0}
    options = TermOptions(learned_factor="raw", affinity_scale=0.0, centroid_side="student")
    goal, pupil, told = ObjectiveConfig(weights=weights, options=options), features(), batch_of(0)["targets"]["wide"]
    heads = heads_for(goal, teachers)
    assert set(heads["wide"]) == {"icl_scale", "centroid_scale", "image_projection", "text_projection"}
    call, given = compute(goal, mesh1, pupil, {"wide": told}, heads, teachers)
    _, raw = jax.jit(call).lower(*given).compile(QUICK_COMPILE)(*given)
    own = heads["wide"]
    factor = own["icl_scale"]
    assert float(factor) == pytest.approx(2.659, abs=1e-3)
    x, y = unit(jnp.asarray(pupil.image)), unit(jnp.asarray(pupil.text))
    u, v = (
        unit(jnp.matmul(raw, own[head]["kernel"], precision="highest"))  # biases begin at 0
        for raw, head in ((pupil.image, "image_projection"), (pupil.text, "text_projection"))
    )
    big_x, big_y, centers = unit(told.image), unit(told.text), unit(told.centroids)
    assert float(raw["icl"]) == pytest.approx(float(icl(Pairs(u, v, factor), (big_x, big_y))), rel=1e-5)
    assert float(raw["affinity"]) == pytest.approx(
        float(affinity(Pairs(x, y, pupil.scale), Pairs(big_x, big_y, told.scale))), rel=1e-5
    )
    assert float(raw["centroid"]) == pytest.approx(float(centroid(u, pupil.label, centers, factor)), rel=1e-5)


@pytest.mark.parametrize(("step", "wanted"), [(0, 2.0), (10, 2.0), (12, 1.3), (18, -0.8), (1000, -0.8)])
def test_a_ramp_moves_between_its_steps(step: int, wanted: float) -> None:
    ramp = Ramp(start=2.0, end=-0.8, first=10, last=18)
    assert float(weight_at(ramp, jnp.int32(step))) == pytest.approx(wanted, abs=1e-6)
    assert float(weight_at(0.3, jnp.int32(step))) == pytest.approx(0.3)


def test_layers_below_do_not_slow_the_heads(plan: Plan) -> None:
    rates = tree.leaves_by_path(layer_rates(OptimConfig(layer_decay=0.5), plan.state.params))
    assert {float(rate) for path, rate in rates.items() if path.startswith("distill/")} == {1.0}


STORE, IMAGES = StoreTeacher(path=""), Offer(embed_dim=16, text=False)
GIVES = Offer(embed_dim=16)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"weights": {"cdr": 1.0}}, r"objective.weights \['cdr'\]: no such loss; there are"),
    "sum to zero": ({"weights": {"crd": 0.0, "fd": 0.0}}, "sum to zero; nothing would be learned"),
    "negative": ({"weights": {"crd": -0.1, "fd": 1.0}}, "objective.weights.crd falls to -0.1; below 0 the loss"),
    "not a number": ({"weights": {"fd": 1.0, "crd": math.nan}}, "objective.weights.crd is nan; give finite numbers"),
    "no teacher": ({"teachers": {}, "offers": {}}, "objective 'crd' compares with a teacher, and none serves it"),
    "none serves": (
        {"weights": {"crd": 1.0, "fd": 1.0}, "teachers": {"t": dataclasses.replace(STORE, losses=("fd",))}},
        "objective 'crd' compares with a teacher, and none serves it",
    ),
    "unknown loss of a teacher": (
        {"teachers": {"t": dataclasses.replace(STORE, losses=("crd", "fdd"))}},
        r"teachers.t.losses \['fdd'\]: not in objective.weights \['crd'\]",
    ),
    "serves nothing": (
        {"weights": {"info_nce": 1.0}},
        "teachers.t serves no term of objective.weights .*leave the teacher out",
    ),
    "weight of zero": (
        {
            "teachers": {"t": STORE, "idle": dataclasses.replace(STORE, weight=0.0)},
            "offers": {"t": GIVES, "idle": GIVES},
        },
        "teachers.idle serves no term",
    ),
    "teachers' weights": (
        {"teachers": {"t": dataclasses.replace(STORE, weight=0.0)}},
        r"the weights of teachers \['t'\] sum to zero",
    ),
    "negative teacher": ({"teachers": {"t": dataclasses.replace(STORE, weight=-1.0)}}, "teachers.t: weight -1.0"),
    "name": ({"teachers": {"a/b": STORE}, "offers": {"a/b": GIVES}}, "the name 'a/b' is part of parameters' paths"),
    "not opened": ({"offers": {}}, r"teachers \['t'\] are named, \[\] are opened"),
    "no text": (
        {"offers": {"t": IMAGES}},
        "objective 'crd' needs what teacher 't' does not give: embeddings of captions",
    ),
    "no synthetic": (
        {"weights": {"reinforcement_synthetic": 1.0}},
        "needs what teacher 't' does not give: embeddings of generated captions",
    ),
    "no classes": ({"weights": {"classification": 1.0}}, "teacher 't' does not give: class centroids"),
    "sizes": (
        {"weights": {"fd": 1.0}, "options": TermOptions(projection="none"), "offers": {"t": Offer(embed_dim=24)}},
        "embeddings of 16 numbers with 24 of teacher 't'; set objective.options.projection='linear'",
    ),
    "sizes of centroids": (
        {
            "weights": {"centroid": 1.0},
            "options": TermOptions(projection="none", centroid_side="student"),
            "offers": {"t": Offer(embed_dim=24, classes=3)},
        },
        "embeddings of 16 numbers with 24 of teacher 't'",
    ),
    "average without ema": (
        {"teachers": {"t": AverageTeacher()}, "optim": OptimConfig(ema_decay=0.0)},
        "needs its average: set optim.ema_decay",
    ),
    "no patches": (
        {
            "weights": {"mfd": 1.0},
            "model": dataclasses.replace(SMALL, vision_cfg=ResNetConfig(layers=(1, 1, 1, 1), width=8, image_size=32)),
        },
        "objective 'mfd' hides patches of the image; .* use a ViT",
    ),
    "dark below -1": (
        {"weights": {"info_nce": 1.0, "dark_rest": Ramp(start=2.0, end=-1.1, last=5)}},
        "objective.weights.dark_rest falls to -1.1; below -1 ",
    ),
    "dark below -1 by its teacher": (
        {
            "weights": {"info_nce": 1.0, "dark_rest": Ramp(start=2.0, end=-0.8, last=5)},
            "teachers": {"t": dataclasses.replace(STORE, weight=2.0)},
        },
        "dark_rest falls to -0.8, times 2 for its teachers; below -1 ",
    ),
    "another form": ({"form": "rings"}, "objective.form is 'rings'; it must be one of"),
    "no columns": ({"form": "ring", "chunk": 0}, "objective.chunk is 0; it must be at least 1"),
    "gd in tiles": ({"form": "ring", "weights": {"gd": 1.0}}, r"objective \['gd'\] holds all logits at once"),
    "ramp after the end": (
        {"weights": {"info_nce": 1.0, "crd": Ramp(start=1.0, end=2.0, first=10, last=20)}, "steps": 10},
        "moves from step 10 on, and the run ends at step 10",
    ),
    "ramp to infinity": ({"weights": {"info_nce": 1.0, "crd": Ramp(start=1.0, end=math.inf, last=5)}}, "give finite"),
    "ramp to no number": ({"weights": {"info_nce": 1.0, "crd": Ramp(start=1.0, end=math.nan, last=5)}}, "give finite"),
    "dark without bound": (
        {"weights": {"info_nce": 1.0, "dark_rest": 0.5}, "model": MODEL},
        "objective 'dark_rest' has no lowest value without a bounded logit_scale",
    ),
    "sigmoid without bias": (
        {"weights": {"sigmoid_distillation": 1.0}},
        "objective 'sigmoid_distillation' needs a student with logit_bias",
    ),
    "sigmoid of a teacher without bias": (
        {"weights": {"sigmoid_distillation": 1.0}, "model": MODEL},
        "'sigmoid_distillation' needs what teacher 't' does not give: a logit_bias",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_computed_is_refused(case: str) -> None:
    change, message = REFUSED[case]
    goal = ObjectiveConfig(
        weights=change.get("weights", {"crd": 1.0}),
        options=change.get("options", TermOptions()),
        form=change.get("form", "gathered"),
        chunk=change.get("chunk", 1024),
    )
    config = TrainConfig(
        model=change.get("model", SMALL),
        batch_size=BATCH,
        objective=goal,
        teachers=change.get("teachers", {"t": STORE}),
        optim=change.get("optim", OptimConfig(ema_decay=0.9)),
        steps=change.get("steps", 10_000),
    )
    with pytest.raises(ValueError, match=message):
        Plan(config, change.get("offers", {"t": GIVES}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mask_ratio": 1.0}, r"mask_ratio is 1.0; it must be in \[0, 1\)"),
        ({"affinity_scale": -1.0}, "affinity_scale is -1.0; it must be at least 0"),
        ({"drrho_temperature": 0.0}, "drrho_temperature is 0.0; it must be above 0"),
        ({"dark_temperature": math.inf}, "dark_temperature is inf; it must be above 0"),
        ({"huber_delta": math.nan}, "huber_delta is nan; it must be above 0"),
    ],
)
def test_options_with_which_nothing_can_be_computed(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TermOptions(**given)


@pytest.mark.parametrize("steps", [(3, 3), (-1, 4), (5, 2)])
def test_ramps_that_do_not_rise(steps: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="give steps 0 <= first < last"):
        Ramp(start=0.0, end=1.0, first=steps[0], last=steps[1])


def test_batches_split_over_the_devices_have_these_places(plan: Plan) -> None:
    batch = plan.batch()
    assert jax.tree.map(lambda leaf: leaf.shape, batch) == jax.tree.map(np.shape, batch_of(0))
    assert batch["targets"]["wide"].image.sharding == sharding.batch_sharding(plan.mesh)
    assert batch["targets"]["wide"].centroids.sharding == sharding.replicated(plan.mesh)
