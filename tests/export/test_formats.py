"""Every format in every precision, written by its converter and run by its runtime."""

import dataclasses
import importlib
import importlib.util
import itertools
import shutil

import numpy as np
import pytest

from clip_jax import tree
from clip_jax.export.formats import FORMATS, check_installed
from clip_jax.export.measure import measure
from clip_jax.interop.proof.gate import NotProven
from clip_jax.models.clip import CLIPConfig
from clip_jax.models.vit import VisionConfig
from tests.export.models import CONFIGS, need, params_of, wanted

LIMITS = {"f32": 1e-5, "f16": 5e-3, "int8": 0.1}  # of an element of an embedding
# Each format, precision, kind of model and tower at least once; a file takes seconds, so the rest is for `make test-all`.
QUICK = [
    *(("vit", "joint", name, "int8") for name in FORMATS),
    *(("vit", "text", name, "f16") for name in ("onnx", "litert", "coreml")),
    *(("siglip", "joint", name, "int8") for name in ("onnx", "litert", "coreml")),
    *(("resnet", "image", name, "int8") for name in ("litert", "coreml")),
    *(("vit", "image", name, "f32") for name in ("onnx", "coreml")),
]
SLOW = [
    case
    for case in itertools.product(("vit", "siglip", "resnet"), ("joint", "image"), FORMATS, LIMITS)
    if case not in QUICK and (case[1] == "joint" or not FORMATS[case[2]].whole)
]
CASES = [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]


def bytes_of(path):
    return sum(one.stat().st_size for one in ([path] if path.is_file() else path.rglob("*")) if one.is_file())


@pytest.mark.parametrize(("kind", "tower", "name", "precision"), CASES)
def test_a_file_is_the_model(exported, tmp_path, kind, tower, name, precision):
    need(name)
    config, params, samples = exported(kind)
    one = FORMATS[name]
    file = wanted(config, params, tower, precision, preprocess=kind == "siglip", batch=None if one.flexible else 1)
    path = tmp_path / one.name(tower)
    one.write(file, path)
    found, _ = measure(one.open_file(path, file), file, file.graph(), samples)
    assert found.largest < LIMITS[precision]
    numbers = file.graph().parameters
    if kind == "vit":  # nearly all of it is one table
        assert bytes_of(path) < numbers * {"f32": 4, "f16": 2, "int8": 1}[precision] * 1.1 + 150_000


@pytest.mark.parametrize("name", ["onnx", "litert", "coreml", "jax"])
def test_a_fixed_batch(exported, tmp_path, name):
    need(name)
    config, params, samples = exported("vit")
    file = wanted(config, params, "image", "f16", batch=3)
    path = tmp_path / FORMATS[name].name("image")
    FORMATS[name].write(file, path)
    runner = FORMATS[name].open_file(path, file)
    measure(runner, file, file.graph(), samples)
    if runner.real:
        with pytest.raises(Exception, match=r"(?i)shape|dimension"):  # each runtime has its own
            runner.run({"pixels": samples.pixels[:2]})


@pytest.fixture(scope="module")
def core_ml(exported, tmp_path_factory):
    """kind -> a file in f16, with both towers, and what it was to be; each made once."""
    need("coreml")
    made = {}

    def of(kind):
        if kind not in made:
            config, params, _ = exported(kind)
            file = wanted(config, params, "joint", "f16", batch=1)
            path = tmp_path_factory.mktemp(kind) / "joint.mlpackage"
            FORMATS["coreml"].write(file, path)
            made[kind] = path, file
        return made[kind]

    return of


@pytest.mark.parametrize(
    ("kind", "parameter", "part"),
    [
        ("vit", "visual/proj/kernel", np.s_[:]),
        ("vit", "visual/positional_embedding", np.s_[1:]),
        ("vit", "visual/ln_post/bias", np.s_[:]),
        ("vit", "text/blocks/attn/qkv/bias", np.s_[1]),
        ("vit", "text/blocks/ln_2/scale", np.s_[0]),
        ("siglip", "visual/head/qkv/bias", np.s_[64:]),
    ],
)
def test_a_core_ml_file_with_other_weights_is_refused(core_ml, tmp_path, kind, parameter, part):
    whole, file = core_ml(kind)
    path = tmp_path / "joint.mlpackage"
    shutil.copytree(whole, path)
    (stored,) = path.rglob("weight.bin")
    content = stored.read_bytes()
    array = file.graph().weights[parameter][part].astype(np.float16)
    places = [(one, content.find(one.tobytes())) for one in (array, array.T)]
    (ours, at) = next((one, at) for one, at in places if at >= 0)
    spoiled = ours.copy()
    spoiled.flat[ours.size // 2] += 0.01
    stored.write_bytes(content[:at] + spoiled.tobytes() + content[at + spoiled.nbytes :])
    with pytest.raises(NotProven, match=f"{parameter} differs from ours by 0.0"):
        FORMATS["coreml"].open_file(path, file)


@pytest.mark.parametrize("kind", ["vit", "siglip"])
def test_what_core_ml_computes_beforehand_is_compared_too(core_ml, exported, kind):
    """A class token with its position, and the query of SigLIP's probe."""
    path, file = core_ml(kind)
    of = {"vit": "visual/class_embedding", "siglip": "visual/head/probe"}[kind]
    leaves = tree.leaves_by_path(exported(kind)[1])
    other = dataclasses.replace(file, params=tree.nested({**leaves, of: np.asarray(leaves[of]) + 0.1}))
    with pytest.raises(NotProven, match=f"{of} differs from ours"):
        FORMATS["coreml"].open_file(path, other)


def test_an_onnx_file_holds_nothing_that_nobody_uses(exported, tmp_path):
    need("onnx")
    config, params, _ = exported("vit")
    FORMATS["onnx"].write(wanted(config, params, "image"), tmp_path / "image.onnx")
    graph = importlib.import_module("onnx").load(tmp_path / "image.onnx").graph
    assert {one.name for one in graph.initializer} <= {name for node in graph.node for name in node.input}


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_installed(["jax", "safetensors"])
    with pytest.raises(
        ModuleNotFoundError, match=r"coremltools, stablehlo_coreml are not installed; pip install 'clip_jax\["
    ):
        check_installed(["jax", "coreml"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "coreml", "litert"])
def test_piccollages_student_is_as_small_as_theirs(tmp_path, name):
    """Width 384, 6 layers, patches of 32, embeddings of 512: 48.2 MB in f32, 24.1 in f16, and below 12.5 in int8."""
    need(name)
    vision = VisionConfig(layers=6, width=384, head_width=32, patch_size=32)
    config = CLIPConfig(embed_dim=512, vision_cfg=vision, text_cfg=CONFIGS["vit"].text_cfg)
    params = params_of(config)
    megabytes = []
    for precision in LIMITS:
        path = tmp_path / f"{precision}{FORMATS[name].suffix}"
        FORMATS[name].write(wanted(config, params, "image", precision, batch=1), path)
        megabytes.append(bytes_of(path) / 1e6)
    assert megabytes[0] == pytest.approx(48.2, abs=0.2)
    assert megabytes[1] == pytest.approx(24.1, abs=0.2)
    assert megabytes[2] < 12.5
