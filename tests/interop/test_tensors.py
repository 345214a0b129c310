"""Weight files: what is read is what was saved, nothing in them runs, and what is no file of weights says so in one line."""

import json
import os
import pickle
import sys
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy
from safetensors import safe_open

from clip_jax.interop.files import tensors, torch_files
from tests.interop.refusal import refusal

DTYPES = [np.float32, np.float16, np.float64, ml_dtypes.bfloat16, np.int64, np.int32, np.uint8, np.bool_]
F8 = [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]


def state_of(dtypes, seed=0):
    """Arrays of three shapes, one not contiguous, in each dtype."""
    rng = np.random.default_rng(seed)
    state = {}
    for dtype in dtypes:
        name = np.dtype(dtype).name
        state[f"{name}.matrix"] = (4 * rng.normal(size=(5, 3))).astype(dtype)
        state[f"{name}.turned"] = (4 * rng.normal(size=(2, 3, 4))).astype(dtype).transpose(2, 0, 1)
        state[f"{name}.scalar"] = np.asarray(4 * rng.normal(), dtype)
        state[f"{name}.none"] = np.zeros((0, 3), dtype)
    return state


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for key, array in wanted.items():
        assert found[key].dtype == array.dtype, key
        assert found[key].shape == array.shape, key
        assert found[key].tobytes() == array.tobytes(), key


class Malicious:
    """A pickle of it runs a command."""

    def __init__(self, sentinel: Path):
        self.sentinel = sentinel

    def __reduce__(self):
        return os.system, (f"touch {self.sentinel}",)


def test_safetensors_back_and_forth(tmp_path):
    state = state_of(DTYPES + F8)
    tensors.write(tmp_path / "a.safetensors", state, {"made by": "a test"})
    found = tensors.read(tmp_path / "a.safetensors")
    assert_same(found.state, state)
    assert found.extras == {"format": "pt", "made by": "a test"}
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_safetensors_are_the_librarys_own_bytes(tmp_path):
    state = {key: np.asarray(array, order="C") for key, array in state_of([np.float32, np.float16, np.int64]).items()}
    safetensors_numpy.save_file(state, tmp_path / "theirs.safetensors", {"format": "pt"})
    tensors.write(tmp_path / "ours.safetensors", state_of([np.float32, np.float16, np.int64]), {})
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
    with safe_open(tmp_path / "ours.safetensors", framework="numpy") as file:
        assert file.get_tensor("float16.turned").shape == (4, 2, 3)


def test_content_and_not_the_name_decides(tmp_path):
    state = state_of([np.float32])
    tensors.write(tmp_path / "a.safetensors", state, {})
    (tmp_path / "a.safetensors").rename(tmp_path / "a.pt")
    assert_same(tensors.read(tmp_path / "a.pt").state, state)
    np.savez(tmp_path / "b.npz", **state)
    (tmp_path / "b.npz").rename(tmp_path / "b.safetensors")
    assert_same(tensors.read(tmp_path / "b.safetensors").state, state)


def test_npz(tmp_path):
    state = state_of(DTYPES)  # NumPy saves bfloat16 as two bytes without a type
    state = {f"params/{key.replace('.', '/')}": array for key, array in state.items()}
    np.savez(tmp_path / "a.npz", **state)
    assert_same(tensors.read(tmp_path / "a.npz").state, state)


def test_sharded(tmp_path):
    state = state_of([np.float32, np.float16])
    where = {key: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, key in enumerate(state)}
    for name in set(where.values()):
        tensors.write(tmp_path / name, {key: state[key] for key in state if where[key] == name}, {})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert_same(tensors.read_sharded(index).state, state)
    assert_same(tensors.read(index).state, state)

    index.write_text(json.dumps({"weight_map": where | {"lost": "model-00001-of-00002.safetensors"}}))
    assert "lost in model-00001" in refusal(index)
    index.write_text(json.dumps({"weight_map": where | {"x": "../elsewhere.safetensors"}}))
    assert "outside of its folder" in refusal(index)
    index.write_text(json.dumps({"weight_map": ["a"]}))
    assert "no index" in refusal(index)
    index.write_text(json.dumps({"weight_map": where}))
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    assert "1 of its 2 files are missing: model-00002" in refusal(index)


def zipped(path, entries):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


NO_WEIGHTS = {
    "empty": (b"", "is empty"),
    "page": (b"\n<!DOCTYPE html><html>Not found</html>", "HTML"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "json": (b'{"error": "not found"}', "JSON"),
    "gzip": (b"\x1f\x8b\x08" + bytes(40), "gzip"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(40), "HDF5"),
    "tar": (bytes(257) + b"ustar\x0000" + bytes(300), "tar archive"),
    "text": (b"hello, world", "b'hello, world'"),
    "zip": (b"PK\x03\x04" + bytes(40), "damaged or cut short"),
    "header": ((1000).to_bytes(8, "little") + b'{"a": ', "damaged safetensors"),
    "no json": ((6).to_bytes(8, "little") + b'{"a": ', "damaged safetensors"),
    "two bytes": (b"\x80\x02", "pickle"),
}


@pytest.mark.parametrize("name", NO_WEIGHTS)
def test_what_holds_no_weights_says_what_it_is(tmp_path, name):
    content, said = NO_WEIGHTS[name]
    (tmp_path / "model.safetensors").write_bytes(content)
    assert said in refusal(tmp_path / "model.safetensors")


def test_folders_missing_files_and_unreadable_ones(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert "is a folder; give one of its files (model.safetensors)" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "absent.pt")

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)  # tests may run as root, to whom all files open
    assert "cannot be read: Permission denied" in refusal(tmp_path / "model.safetensors")


def test_zips_of_other_things(tmp_path):
    zipped(tmp_path / "a.zip", {"photo.jpg": b"x", "b.npy": b"y"})
    assert "zip of other things than weights: photo.jpg" in refusal(tmp_path / "a.zip")
    zipped(tmp_path / "b.zip", {})
    assert "zip of other things than weights: nothing" in refusal(tmp_path / "b.zip")
    zipped(tmp_path / "c.pt", {"c/model.json": b"{}", "c/code/c.py": b"", "c/tensors/0": b""})
    assert "torch before 1.4" in refusal(tmp_path / "c.pt")


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_cut_short_at_any_place(tmp_path, suffix):
    state = state_of([np.float32, np.float16])
    whole = tmp_path / f"whole.{suffix}"
    if suffix == "npz":
        np.savez(whole, **state)
    else:
        tensors.write(whole, state, {})
    content = whole.read_bytes()
    part = tmp_path / f"part.{suffix}"
    for size in [*range(0, len(content) - 1, max(1, len(content) // 60)), len(content) - 1]:
        part.write_bytes(content[:size])
        refusal(part)


@pytest.mark.parametrize(("offset", "value", "said"), [(6, 1, "is encrypted"), (8, 99, "compression")])
def test_zips_whose_members_cannot_be_unpacked(tmp_path, offset, value, said):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.ones(3, np.float32))
    data = bytearray(path.read_bytes())
    for signature, start in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):  # flags and method, in both of its headers
        data[data.index(signature) + start + offset] = value
    path.write_bytes(data)
    assert said in refusal(path)


def test_a_flipped_bit_of_an_npz_is_seen(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.arange(1000, dtype=np.float32))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[2000] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    refusal(tmp_path / "a.npz")


def test_safetensors_of_unknown_dtypes(tmp_path):
    header = b'{"a":{"dtype":"F8_E8M0","shape":[2],"data_offsets":[0,2]}}'
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"ab")
    assert "a in it has dtype F8_E8M0" in refusal(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"no such dtype: a \(complex128\)"):
        tensors.write(tmp_path / "b.safetensors", {"a": np.zeros(2, np.complex128)}, {})


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    tensors.write(path, {"a": np.ones(2, np.float32)}, {})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ValueError, match=r"a\.safetensors cannot be written: No space left on device"):
        tensors.write(path, {"a": np.zeros(2, np.float32)}, {})
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
    assert tensors.read(path).state["a"].sum() == 2


def test_pickles_in_npz_are_not_run(tmp_path):
    sentinel = tmp_path / "ran"
    np.savez(tmp_path / "a.npz", a=np.array([Malicious(sentinel)], object))
    text = refusal(tmp_path / "a.npz")
    assert "more than weights: the Python objects in a" in text
    assert "safetensors" in text
    assert not sentinel.exists()
    np.load(tmp_path / "a.npz", allow_pickle=True)["a"]
    assert sentinel.exists()  # so the trap was one


def test_bare_pickles_are_not_run(tmp_path):
    sentinel = tmp_path / "ran"
    content = pickle.dumps({"a": Malicious(sentinel)})
    (tmp_path / "a.pt").write_bytes(content)
    assert "more than weights" in refusal(tmp_path / "a.pt")
    assert not sentinel.exists()
    pickle.loads(content)
    assert sentinel.exists()


def test_torch_files_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    zipped(tmp_path / "a.pt", {"a/data.pkl": b"", "a/data/0": b""})
    assert "pip install 'clip_jax[torch]'" in refusal(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"pip install 'clip_jax\[torch\]'"):
        tensors.write(tmp_path / "b.pt", {"a": np.zeros(2, np.float32)}, {})
    tensors.write(tmp_path / "b.safetensors", {"a": np.zeros(2, np.float32)}, {})
    assert tensors.read(tmp_path / "b.safetensors").state["a"].shape == (2,)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def save(request, torch):
    """torch.save in the newer and the older format."""
    return lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=request.param)


def test_torch_back_and_forth(tmp_path, torch):
    state = state_of(DTYPES + F8)
    tensors.write(tmp_path / "a.pt", state, {})
    assert_same(tensors.read(tmp_path / "a.pt").state, state)
    opened = torch.load(tmp_path / "a.pt", weights_only=True)
    assert opened["bfloat16.matrix"].dtype == torch.bfloat16
    assert opened["bfloat16.matrix"].float().numpy().tolist() == state["bfloat16.matrix"].astype(np.float32).tolist()
    assert opened["float32.turned"].is_contiguous()
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_torch_reads_our_safetensors(tmp_path, torch):
    from safetensors.torch import load_file

    state = state_of(DTYPES + F8)
    tensors.write(tmp_path / "a.safetensors", state, {})
    theirs = {key: torch_files._to_numpy(key, tensor) for key, tensor in load_file(tmp_path / "a.safetensors").items()}
    assert_same(theirs, state)


def test_checkpoints_of_training(tmp_path, torch, save):
    weights = {"module.a": torch.randn(3, 2).T, "module.b": torch.nn.Parameter(torch.randn(2).bfloat16())}
    optimizer = {"state": {0: {"exp_avg": torch.randn(3, 2)}}, "param_groups": [{"lr": 1e-3}]}
    about = {"epoch": 3, "name": "run", "scaler": {}, "lr": 0.1, "betas": (0.9, 0.98), "best": None}
    for wrapper in ("state_dict", "model_state_dict", "model"):
        save(about | {wrapper: weights, "optimizer": optimizer}, tmp_path / "a.pt")
        found = tensors.read(tmp_path / "a.pt")
        assert found.state.keys() == weights.keys()
        assert found.state["module.a"].tolist() == weights["module.a"].tolist()
        assert found.state["module.b"].dtype == ml_dtypes.bfloat16
        assert found.extras == about
    save(weights | {"epoch": 3, "optimizer": optimizer}, tmp_path / "a.pt")
    found = tensors.read(tmp_path / "a.pt")
    assert found.state.keys() == weights.keys()
    assert found.extras == {"epoch": 3}


def test_torch_files_that_hold_no_state_dict(tmp_path, torch, save):
    for content, said in (
        ([torch.zeros(2)], "holds a list"),
        (torch.zeros(2), "holds a Tensor"),
        ({"epoch": 3, "args": {"lr": 1}}, "its keys are: epoch, args"),
        ({}, "its keys are: none"),
        ({3: torch.zeros(2)}, "have no names"),
        ({"a": torch.eye(2).to_sparse()}, "a is a sparse"),
        ({"a": torch.zeros(2, device="meta")}, "a is a sparse, quantized or empty tensor"),
    ):
        save(content, tmp_path / "a.pt")
        assert said in refusal(tmp_path / "a.pt")


def test_dtypes_that_numpy_lacks(tmp_path, torch):
    torch.save({"a": torch.zeros(2).to(torch.float8_e4m3fnuz)}, tmp_path / "a.pt")
    assert "a has dtype float8_e4m3fnuz, which NumPy lacks; save it as float32" in refusal(tmp_path / "a.pt")


def test_pickles_of_torch_that_want_more_are_not_run(tmp_path, torch, save):
    import argparse

    sentinel = tmp_path / "ran"
    for content, wanted in (
        ({"a": torch.zeros(2), "b": Malicious(sentinel)}, "posix.system"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        ({"state_dict": {"a": torch.zeros(2)}, "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
    ):
        save(content, tmp_path / "a.pt")
        text = refusal(tmp_path / "a.pt")
        assert f"more than weights: {wanted}." in text
        assert "save its state dict again as safetensors" in text
        assert not sentinel.exists()
    save({"b": Malicious(sentinel)}, tmp_path / "a.pt")
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert sentinel.exists()


def test_torch_files_under_another_name(tmp_path, torch, save):
    save({"a": torch.arange(3)}, tmp_path / "a.safetensors")
    assert tensors.read(tmp_path / "a.safetensors").state["a"].tolist() == [0, 1, 2]


def test_torch_files_cut_short_or_damaged(tmp_path, torch, save):
    save({"a": torch.randn(50), "b": torch.randn(5).half()}, tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    for size in [*range(0, len(content) - 1, len(content) // 40), len(content) - 1]:
        (tmp_path / "b.pt").write_bytes(content[:size])
        refusal(tmp_path / "b.pt")


def test_a_flipped_bit_of_a_torch_zip_is_seen(tmp_path, torch):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "a.pt")
    content = bytearray((tmp_path / "a.pt").read_bytes())
    content[content.index(bytes(3000)) + 1500] ^= 1
    (tmp_path / "a.pt").write_bytes(content)
    assert "data/0 in it is damaged" in refusal(tmp_path / "a.pt")


def test_an_old_torch_is_not_trusted(tmp_path, torch, monkeypatch):
    torch.save({"a": torch.zeros(2)}, tmp_path / "a.pt")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    assert "torch 2.5.1+cpu can be made to run code" in refusal(tmp_path / "a.pt")


def test_reading_a_torch_zip_copies_nothing(tmp_path, torch):
    torch.save({"a": torch.zeros(2_000_000)}, tmp_path / "a.pt")
    array = tensors.read(tmp_path / "a.pt").state["a"]
    with open("/proc/self/maps") as maps:
        assert str(tmp_path / "a.pt") in maps.read()
    assert array.shape == (2_000_000,)
