import json
import logging
import sys

import numpy as np
import pytest

from clip_jax.interop.proof import libraries, reference
from clip_jax.interop.proof.outputs import Foreign, unit
from tests.interop import foreign_models as foreign

SETTINGS = foreign.clip_settings()


@pytest.fixture(scope="module")
def transformers():
    return foreign.imported("huggingface")


@pytest.fixture(scope="module")
def model(transformers):
    """A CLIPModel with weights in which every parameter matters."""
    import torch

    model = foreign.transformers_model(SETTINGS)
    model.load_state_dict({key: torch.from_numpy(array) for key, array in foreign.state_of(model).items()})
    return model


@pytest.fixture
def folder(model, tmp_path):
    """The same as its users save it."""
    model.save_pretrained(tmp_path)
    return tmp_path


def arrays(model):
    return {key: value.numpy() for key, value in model.state_dict().items()}


def run(layout="huggingface", *, path=None, state=None, settings=SETTINGS):
    weights = Foreign(layout=layout, path=path, state=state or {}, settings=settings)
    return libraries.outputs(weights, *foreign.inputs())


def test_transformers_by_folder_and_by_state(model, folder):
    import torch

    by_folder, by_state = run(path=folder), run(state=arrays(model))
    pixels, tokens = foreign.inputs()
    with torch.no_grad():
        images = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
        expected = model.eval()(input_ids=torch.from_numpy(tokens), pixel_values=images)
        features = model.get_image_features(images).pooler_output
    for found in (by_folder, by_state):
        np.testing.assert_array_equal(found.logits, expected.logits_per_image.numpy())
        np.testing.assert_allclose(found.image, unit(features.numpy()), rtol=0, atol=1e-6)
        np.testing.assert_allclose(found.text, expected.text_embeds.numpy(), rtol=0, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(found.text, axis=-1), 1, rtol=1e-12)
        assert found.by.startswith("transformers 5.") or found.by.startswith("transformers 4.")


def test_settings_are_left_as_they_are(model):
    """transformers fills old dicts into newer ones, in place."""
    old = SETTINGS | {"text_config_dict": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}}
    before = json.dumps(old)
    with pytest.raises(ValueError, match="size mismatch"):  # by its defaults, 77 positions
        run(state=arrays(model), settings=old)
    assert json.dumps(old) == before


def test_old_position_ids_are_no_weights(model):
    state = arrays(model) | {"text_model.embeddings.position_ids": np.arange(16)[None]}
    np.testing.assert_array_equal(run(state=state).text, run(state=arrays(model)).text)


def test_folder_that_says_half_is_read_in_full(model, folder):
    """transformers 5 would round to what config.json names."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float16", "torch_dtype": "float16"}))
    np.testing.assert_array_equal(run(path=folder).logits, run(state=arrays(model)).logits)


@pytest.mark.parametrize("route", ["folder", "state"])
@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_a_scale_of_the_other_shape_is_taken(model, tmp_path, family, route):
    """[1] where CLIPModel has [], and [] where SiglipModel has [1]."""
    from safetensors.numpy import save_file

    settings = {"clip": SETTINGS, "siglip": foreign.siglip_settings()}[family]
    state = foreign.state_of(foreign.transformers_model(settings))
    other = (1,) if family == "clip" else ()
    odd = {key: array.reshape(other) if array.size == 1 else array for key, array in state.items()}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    save_file(odd, tmp_path / "model.safetensors")
    found = run(path=tmp_path if route == "folder" else None, state=odd, settings=settings)
    np.testing.assert_array_equal(found.logits, run(state=state, settings=settings).logits)
    with pytest.raises(ValueError, match="logit_scale"):
        run(path=tmp_path, state=odd | {"logit_scale": np.ones(2, np.float32)}, settings=settings)


@pytest.mark.parametrize("route", ["folder", "state"])
@pytest.mark.parametrize("damage", ["missing", "extra", "misshapen"])
def test_weights_that_do_not_fit_are_an_error(model, folder, route, damage):
    from safetensors.numpy import save_file

    key = "vision_model.post_layernorm.weight"
    state = arrays(model)
    if damage == "missing":
        del state[key]
    elif damage == "extra":
        state["vision_model.new"] = np.ones(3, np.float32)
    else:
        state[key] = np.ones(3, np.float32)
    save_file(state, folder / "model.safetensors")
    # Of a wrong shape in a folder, transformers raises without a name, and logs it.
    named = "" if (damage, route) == ("misshapen", "folder") else r".*(post_layernorm|vision_model\.new)"
    with pytest.raises(ValueError, match=r"(?s)transformers does not take these weights: " + named):
        run(path=folder) if route == "folder" else run(state=state)


def test_absent_library_gives_none_and_says_why(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG, logger="clip_jax")
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert run() is None
    assert "transformers cannot be imported: ModuleNotFoundError" in caplog.text or "torch" in caplog.text


def test_broken_library_gives_none(monkeypatch):
    def broken(layout):
        raise OSError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(libraries, "import_library", broken)
    assert run() is None
    assert run("openai") is None


def test_absence_is_told(monkeypatch):
    found = {"torch": object(), "transformers": object()}
    monkeypatch.setattr(libraries.importlib.util, "find_spec", found.get)
    assert libraries.absence("huggingface") == "transformers cannot be imported"
    assert libraries.absence("open_clip") == "open_clip is not installed"
    del found["torch"]
    assert libraries.absence("huggingface") == "torch is not installed"
    assert libraries.absence("big_vision") == ""


def test_big_vision_has_no_library():
    assert run("big_vision") is None


def test_openai_loses_nothing_to_half_precision():
    library = foreign.imported("openai")
    model = library.CLIP(24, 32, 1, 64, 8, foreign.LENGTH, 49408, 64, 1, 1)
    state = foreign.state_of(model)
    found = run("openai", state=state, settings={})
    expected = reference.outputs("openai", state, {}, *foreign.inputs())
    np.testing.assert_allclose(found.image, expected.image, rtol=0, atol=1e-6)
    assert found.by.endswith(tuple("0123456789"))
    del state["visual.ln_post.weight"]
    with pytest.raises(ValueError, match="clip does not take these weights"):
        run("openai", state=state, settings={})


@pytest.mark.slow
@pytest.mark.parametrize("custom", [False, True])
def test_open_clip_by_folder_and_by_state(custom, tmp_path):
    library = foreign.imported("open_clip")
    from safetensors.numpy import save_file

    settings = foreign.open_clip_settings(custom_text=custom, init_logit_bias=-10)
    before = json.dumps(settings)
    given = {key: value for key, value in settings["model_cfg"].items() if key != "custom_text"}
    model = (library.CustomTextCLIP if custom else library.CLIP)(**given)
    state = foreign.state_of(model)
    (tmp_path / "open_clip_config.json").write_text(json.dumps(settings))
    save_file(state, tmp_path / "open_clip_model.safetensors")
    by_folder = run("open_clip", path=tmp_path, settings=settings)
    by_state = run("open_clip", state=state, settings=settings)
    np.testing.assert_array_equal(by_folder.logits, by_state.logits)
    np.testing.assert_allclose(by_folder.logits, 20 * by_folder.image @ by_folder.text.T - 3, rtol=0, atol=1e-4)
    assert by_folder.by.startswith("open_clip_torch 3.")
    assert json.dumps(settings) == before
    with pytest.raises(ValueError, match="open_clip does not take these weights"):
        run("open_clip", state=state | {"new": np.ones(3)}, settings=settings)
