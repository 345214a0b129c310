"""The ResNet tower against NumPy, PyTorch and open_clip; its running statistics, sizes, initialisation and errors."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clip_jax import tree
from clip_jax.interop.proof.libraries import import_library
from clip_jax.models.clip import CLIPConfig, abstract_params, adapt_positions, bind, count_parameters, init_params
from clip_jax.models.layers import Running
from clip_jax.models.presets import preset
from clip_jax.models.resnet import BatchNorm, ResNetConfig
from clip_jax.models.text import TextConfig
from clip_jax.models.vit import resize_positions
from clip_jax.optim import OptimConfig, decay_mask, layer_rates, make_optimizer, statistics_mask
from tests.conftest import QUICK_COMPILE, SMALL
from tests.models.reference_resnet import ResNet

CONFIG = dataclasses.replace(
    SMALL, embed_dim=24, vision_cfg=ResNetConfig(layers=(1, 2, 1, 1), width=4, head_width=32, image_size=64)
)


def rough_params(config: CLIPConfig) -> dict[str, Any]:
    """Parameters of which every one counts: no zeros and ones, statistics neither. Drawn by NumPy, which compiles nothing."""
    rng = np.random.default_rng(5)

    def drawn(path: str, leaf: Any) -> np.ndarray:
        if path == "logit_scale":
            return np.float32(2.5)
        if path.endswith(("scale", "var")):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        fan_in = math.prod(leaf.shape[-4:-1] if leaf.ndim == 4 else leaf.shape[-2:-1])
        std = fan_in**-0.5 if path.endswith("kernel") else 0.1
        return rng.normal(0, std, leaf.shape).astype(np.float32)

    return tree.map_with_path(drawn, abstract_params(config))


def initialised(config: CLIPConfig) -> Any:
    return jax.device_get(jax.jit(lambda: init_params(config, jax.random.key(0)), compiler_options=QUICK_COMPILE)())


@pytest.fixture(scope="module")
def params() -> dict[str, Any]:
    return rough_params(CONFIG)


NOISE = np.zeros((6, 4), np.float32)  # of a training step; a ResNet does nothing at random


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).normal(0.3, 1.0, (6, 64, 64, 3)).astype(np.float32)


def encode(config: CLIPConfig, params: Any, images: np.ndarray, *, train: bool, hold: tuple[str, ...] = ()) -> Any:
    """Embeddings f32[B, E], and running statistics by path in the tower."""

    @functools.partial(jax.jit, compiler_options=QUICK_COMPILE)
    def run(params: Any) -> Any:
        clip = bind(config, params)
        clip.hold_statistics(hold)
        return clip.encode_image(images, NOISE if train else None), clip.statistics()

    y, statistics = run(params)
    return np.asarray(y), tree.leaves_by_path(statistics["visual"])


def gradients(config: CLIPConfig, params: Any, images: np.ndarray, *, train: bool) -> Any:
    """Of a sum over the embeddings, by path in the tower; with what `encode` gives."""

    def run(params: Any) -> Any:
        clip = bind(config, params)
        y = clip.encode_image(images, NOISE if train else None)
        weights = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
        return (y * weights).sum(), (y, clip.statistics())

    both = jax.jit(jax.value_and_grad(run, has_aux=True), compiler_options=QUICK_COMPILE)
    (_, (y, statistics)), grads = both(params)
    visual = (tree.leaves_by_path(leaves["visual"]) for leaves in (statistics, grads))
    return np.asarray(y), *visual


@pytest.fixture(scope="module")
def trained(params: Any, images: np.ndarray) -> Any:
    return gradients(CONFIG, params, images, train=True)


@pytest.fixture(scope="module")
def evaluated(params: Any, images: np.ndarray) -> Any:
    return gradients(CONFIG, params, images, train=False)


def test_evaluation_equals_numpy(params, images, evaluated):
    found, statistics, _ = evaluated
    np.testing.assert_allclose(found, ResNet(CONFIG, params)(images, train=False), atol=3e-6)
    given = tree.leaves_by_path(params["visual"])
    assert statistics
    assert all(np.array_equal(leaf, given[path]) for path, leaf in statistics.items())


def test_training_equals_numpy(params, images, trained, evaluated):
    found, statistics, _ = trained
    reference = ResNet(CONFIG, params)
    np.testing.assert_allclose(found, reference(images, train=True), atol=3e-5)
    assert statistics.keys() == reference.statistics.keys()
    for path, wanted in reference.statistics.items():
        np.testing.assert_allclose(statistics[path], wanted, rtol=2e-5, atol=1e-5, err_msg=path)
    assert np.abs(found - evaluated[0]).max() > 0.01


def test_statistics_have_no_gradient_and_all_else_has(trained, evaluated):
    for _, statistics, grads in (trained, evaluated):
        for path, grad in grads.items():
            assert np.isfinite(grad).all(), path
            assert (np.abs(grad).max() == 0) == (path in statistics), path


@pytest.mark.parametrize("remat", ["block", "dots"])
def test_ways_of_running_change_nothing(params, images, trained, remat):
    config = dataclasses.replace(CONFIG, running=Running(remat=remat))
    found = gradients(config, params, images, train=True)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(trained), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_bf16_is_close_to_f32(params, images, trained, evaluated):
    half = dataclasses.replace(CONFIG, dtype="bfloat16")
    for train, (fine, statistics, _) in ((True, trained), (False, evaluated)):
        coarse, coarse_statistics = encode(half, params, images, train=train)
        assert (coarse * fine).sum(-1).min() > 0.995
        for path, leaf in coarse_statistics.items():
            assert leaf.dtype == jnp.float32
            np.testing.assert_allclose(leaf, statistics[path], rtol=0.02, atol=0.02, err_msg=path)


def test_held_statistics_are_used_and_stay(params, images, trained, evaluated):
    found, statistics = encode(CONFIG, params, images, train=True, hold=("visual/.*",))
    np.testing.assert_allclose(found, evaluated[0], atol=1e-6)
    given = tree.leaves_by_path(params["visual"])
    assert all(np.array_equal(leaf, given[path]) for path, leaf in statistics.items())

    _, statistics = encode(CONFIG, params, images, train=True, hold=("visual/layer4/.*mean",))
    for path, leaf in statistics.items():
        assert np.array_equal(leaf, given[path]) == path.startswith("layer4/"), path
    np.testing.assert_allclose(statistics["bn1/var"], trained[1]["bn1/var"], rtol=1e-6)


def test_batch_norm_equals_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    ours, theirs = BatchNorm(5), torch.nn.BatchNorm2d(5)
    for name, other in (("scale", theirs.weight), ("bias", theirs.bias)):
        value = rng.normal(1, 0.5, 5).astype(np.float32)
        getattr(ours, name)[...] = jnp.asarray(value)
        other.data[:] = torch.tensor(value)
    for train in (True, True, True, False):
        x = rng.normal(2, 3, (4, 3, 2, 5)).astype(np.float32)
        theirs.train(train)
        wanted = theirs(torch.tensor(x.transpose(0, 3, 1, 2))).detach().numpy().transpose(0, 2, 3, 1)
        found, new = ours(jnp.asarray(x), train=train)
        np.testing.assert_allclose(found, wanted, atol=2e-6)
        nnx.update(ours, new)
        np.testing.assert_allclose(ours.mean[...], theirs.running_mean, rtol=1e-6)
        np.testing.assert_allclose(ours.var[...], theirs.running_var, rtol=1e-6)


# Millions of parameters as open_clip's model_profile.csv has them; the first is the count of OpenAI's checkpoint.
@pytest.mark.parametrize(
    ("name", "millions", "image"),
    [
        ("RN50", 102.007137, 38.32),
        ("RN101", 119.69, 56.26),
        ("RN50x4", 178.30, 87.14),
        ("RN50x16", 290.98, 167.33),
        ("RN50x64", 623.26, 420.38),
    ],
)
def test_parameter_counts(name, millions, image):
    config = preset(name)
    count, params = count_parameters(config), abstract_params(config)
    assert count / 1e6 == pytest.approx(millions, abs=5e-7 if name == "RN50" else 5e-3)
    statistics = [leaf.size for path, leaf in tree.leaves_by_path(params).items() if path.endswith(("/mean", "/var"))]
    assert tree.count(params) == count + sum(statistics)
    assert (tree.count(params["visual"]) - sum(statistics)) / 1e6 == pytest.approx(image, abs=5e-3)


def test_statistics_are_known_by_their_paths(params):
    state = nnx.to_pure_dict(nnx.state(bind(CONFIG, params), nnx.BatchStat))
    named = {path for path, is_statistic in tree.leaves_by_path(statistics_mask(params)).items() if is_statistic}
    assert named == set(tree.leaves_by_path(state))
    assert len(named) == 2 * (3 + 3 * 5 + 4)


def test_decay_pulls_on_kernels_only(params):
    decayed = {path for path, pulled in tree.leaves_by_path(decay_mask(params["visual"])).items() if pulled}
    assert decayed == {path for path in tree.paths(params["visual"]) if path.endswith("kernel")}
    assert {"conv1/kernel", "layer2/1/conv2/kernel", "layer1/0/downsample/conv/kernel", "attnpool/q/kernel"} < decayed


def test_layer_rates_by_hand(params):
    rates = tree.leaves_by_path(layer_rates(OptimConfig(layer_decay=0.5), params))
    layers = {"layer4/0/": 1, "layer3/0/": 2, "layer2/1/": 3, "layer2/0/": 4, "layer1/0/": 5, "attnpool/": 0}
    for path, rate in rates.items():
        tower, _, inner = path.partition("/")
        if tower == "visual":
            wanted = next((depth for start, depth in layers.items() if inner.startswith(start)), 6)
            assert float(rate) == 0.5**wanted, path
    assert float(rates["logit_scale"]) == 1


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor", "muon"])
def test_every_optimizer_takes_a_resnet(params, name):
    tx = make_optimizer(OptimConfig(name=name, warmup_steps=0, clip_norm=1.0, layer_decay=0.9), 10, params)
    state = jax.eval_shape(tx.init, params)
    updates, _ = jax.eval_shape(tx.update, params, state, params)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)
    held = {path for path in tree.paths(state) if "visual/" in path}
    assert held
    assert not any(path.endswith(("/mean", "/var")) for path in held)


def test_initialisation():
    config = dataclasses.replace(CONFIG, vision_cfg=ResNetConfig(layers=(1, 1, 1, 3), width=16, image_size=64))
    params = tree.leaves_by_path(initialised(config)["visual"])
    for path, leaf in params.items():
        if "attnpool" in path and not path.endswith("bias"):
            assert leaf.std() == pytest.approx(512**-0.5, rel=4 / math.sqrt(2 * leaf.size)), path
        elif path.endswith("kernel"):
            bound = math.prod(leaf.shape[:3]) ** -0.5
            assert np.abs(leaf).max() == pytest.approx(bound, rel=0.03), path
            assert leaf.std() == pytest.approx(bound / math.sqrt(3), rel=4 / math.sqrt(leaf.size)), path
        else:
            starts_at_one = path.endswith(("scale", "var")) and not (path.endswith("bn3/scale") and "layer" in path)
            np.testing.assert_array_equal(leaf, float(starts_at_one), err_msg=path)
    drawn = [leaf.ravel()[0] for path, leaf in params.items() if path.endswith("kernel")]
    assert len(set(drawn)) == len(drawn), "layers are alike"


def test_positions_follow_the_image_size(params):
    larger = dataclasses.replace(CONFIG, vision_cfg=dataclasses.replace(CONFIG.vision_cfg, image_size=96))
    adapted = adapt_positions(params, larger)
    assert jax.tree.map(jnp.shape, adapted) == jax.tree.map(jnp.shape, abstract_params(larger))
    before = params["visual"]["attnpool"]["positional_embedding"]
    np.testing.assert_array_equal(adapted["visual"]["attnpool"]["positional_embedding"], resize_positions(before, 3))
    same = adapt_positions(params, CONFIG)
    assert all(a is b for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(params), strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": (3, 4, 6)}, r"^vision_cfg.layers is \(3, 4, 6\); a ResNet has 4 stages of at least 1 each"),
        ({"layers": (3, 0, 6, 3)}, r"^vision_cfg.layers is \(3, 0, 6, 3\); a ResNet has 4 stages"),
        ({"width": 63}, "^vision_cfg.width is 63; a ResNet's must be even"),
        ({"width": 10, "head_width": 60}, "width 320, 32 times vision_cfg.width, is not a multiple of head_width 60"),
        ({"image_size": 200}, "^image_size 200 is not a multiple of 32"),
        *(
            ({name: value}, f"^vision_cfg.{name} is {value}; it must be at least 1")
            for name in ("width", "head_width", "image_size")
            for value in (0, -32)
        ),
    ],
)
def test_config_errors(change, message):
    with pytest.raises(ValueError, match=message):
        abstract_params(CLIPConfig(vision_cfg=ResNetConfig(**change)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RN50", "RN101", "RN50x4", "RN50x16", "RN50x64"])
def test_presets_are_those_of_open_clip(name):
    open_clip = open_clip_or_skip()
    import torch

    with torch.device("meta"):
        model = open_clip.model.CLIP(**open_clip.get_model_config(name))
    assert count_parameters(preset(name)) == sum(parameter.numel() for parameter in model.parameters())
    buffers = sum(b.numel() for key, b in model.named_buffers() if key.endswith(("running_mean", "running_var")))
    assert tree.count(abstract_params(preset(name))) - count_parameters(preset(name)) == buffers


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True])
def test_towers_equal_open_clip(train):
    """A tower of four channels and eight heads, in PyTorch's float64, three training steps' statistics included."""
    open_clip_or_skip()
    import torch
    from open_clip.modified_resnet import ModifiedResNet

    vision = ResNetConfig(layers=(2, 1, 3, 1), width=8, head_width=32, image_size=96)
    config = dataclasses.replace(CONFIG, vision_cfg=vision, text_cfg=TextConfig(width=32, heads=2, layers=1))
    params = rough_params(config)
    model = ModifiedResNet(list(vision.layers), config.embed_dim, 8, image_size=96, width=8).double().train(train)
    state = {}
    for path, leaf in tree.leaves_by_path(params["visual"]).items():
        value = leaf.astype(np.float64)
        if path.endswith("kernel"):
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        names = (path.replace("downsample/conv", "downsample/0").replace("downsample/bn", "downsample/1")).split("/")
        if names[0] == "attnpool" and len(names) == 3:
            names[1] = {"out": "c"}.get(names[1], names[1]) + "_proj"
        last = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
        state[".".join([*names[:-1], last.get(names[-1], names[-1])])] = torch.tensor(value)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)

    for seed in range(3):
        images = np.random.default_rng(seed).normal(0, 1, (4, 96, 96, 3)).astype(np.float32)
        wanted = model(torch.tensor(images.transpose(0, 3, 1, 2).astype(np.float64))).detach().numpy()
        found, statistics = encode(config, params, images, train=train)
        np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted, axis=-1, keepdims=True), atol=1e-5)
        visual = tree.nested(tree.leaves_by_path(params["visual"]) | statistics)
        params = params | {"visual": jax.device_get(visual)}
    last = model.state_dict()
    for theirs, ours in (("bn3.running_mean", "bn3/mean"), ("layer3.2.bn2.running_var", "layer3/2/bn2/var")):
        np.testing.assert_allclose(statistics[ours], last[theirs], rtol=1e-5, atol=1e-6)


def open_clip_or_skip() -> Any:
    pytest.importorskip("torch")
    try:
        return import_library("open_clip")
    except ImportError as error:
        pytest.skip(f"open_clip cannot be imported: {error}")
