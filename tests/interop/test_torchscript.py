"""TorchScript archives: the same arrays as torch.jit.load gives, and nothing in them is run."""

import contextlib
import pickle
import sys
import warnings
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from clip_jax.interop.files import tensors, torchscript
from tests.interop.refusal import refusal


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def saved(torch, tmp_path_factory):
    """A scripted and a traced module with all that weights come in, saved."""

    class Inner(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(3)
            self.layers = torch.nn.ModuleList([torch.nn.Linear(3, 3), torch.nn.Linear(3, 3, bias=False)])

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return self.norm(x)

    class Outer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            turned = torch.arange(12.0).reshape(3, 4).T
            self.turned = torch.nn.Parameter(turned)  # strides of its own
            self.register_buffer("part", turned[1:3, 1:])  # shares its storage, with an offset
            self.register_buffer("spread", torch.randn(1, 3).expand(4, 3))  # a stride of 0
            self.register_buffer("vocab_size", torch.tensor(49408))
            self.register_buffer("mask", torch.eye(3).bool())
            self.register_buffer("nothing", torch.zeros(0, 3))
            self.register_buffer("bf16", torch.randn(5, 3).bfloat16())
            self.first, self.second = Inner(), torch.nn.Sequential(Inner())
            self.shared = self.first.layers[0]  # one module under two names
            self.logit_scale = torch.nn.Parameter(torch.tensor(2.5))
            self.small = torch.nn.Linear(3, 3).half()
            self.input_resolution = 224
            self.context_length = 77
            self.name = "outer"

        def forward(self, x):
            y = self.shared(self.second(self.first(x))) @ self.turned.T + self.spread.sum() + self.input_resolution
            z = self.small(x.half()).float() @ torch.ones(3, 4)  # a constant of the program
            return (
                y * self.logit_scale + z + self.part.sum() + self.vocab_size + self.mask.sum() + self.bf16.float().sum()
            )

    folder = tmp_path_factory.mktemp("torchscript")
    torch.manual_seed(0)
    module = Outer().eval()
    for norm in (module.first.norm, module.second[0].norm):
        norm.running_mean.normal_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's, of TorchScript as a whole
        torch.jit.trace(module, torch.randn(2, 3)).save(folder / "traced.pt")
        torch.jit.script(module).save(folder / "scripted.pt")
    return folder


@pytest.fixture(params=["traced", "scripted"])
def archive(saved, request):
    return saved / f"{request.param}.pt"


def entries(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(source: Path, target: Path, changes, compressed=()):
    """A copy of an archive with other entries; None leaves one out. Names are without the root."""
    content = entries(source)
    root = torchscript.root_of(list(content))
    content |= {root + name: data for name, data in changes.items()}
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in content.items():
            how = zipfile.ZIP_DEFLATED if name.removeprefix(root) in compressed else zipfile.ZIP_STORED
            if data is not None:
                archive.writestr(name, data, how)
    return target


def test_the_same_as_torch_jit_load(archive, torch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        wanted = torch.jit.load(archive).state_dict()
    found = tensors.read(archive)
    assert found.extras == {}
    numbers = {"input_resolution", "context_length"} if archive.stem == "scripted" else set()
    assert found.state.keys() == wanted.keys() | numbers
    assert {"shared.weight", "first.layers.0.weight", "second.0.norm.num_batches_tracked", "bf16"} <= wanted.keys()
    for key, tensor in wanted.items():
        array = found.state[key]
        assert array.shape == tuple(tensor.shape), key
        if tensor.dtype == torch.bfloat16:
            assert array.dtype == ml_dtypes.bfloat16
            array, tensor = array.astype(np.float32), tensor.float()
        assert array.dtype == tensor.numpy().dtype, key
        np.testing.assert_array_equal(array, tensor.numpy(), err_msg=key)
    if numbers:
        assert (found.state["input_resolution"], found.state["context_length"]) == (224, 77)
        assert found.state["context_length"].shape == ()


def test_needs_no_torch(archive, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert tensors.read(archive).state["turned"][0].tolist() == [0, 4, 8]


def test_its_program_is_never_opened(archive, tmp_path):
    nonsense = {name.split("/", 1)[1]: b"import os" for name in entries(archive) if "/code/" in name}
    assert nonsense
    without = rewritten(archive, tmp_path / "a.pt", nonsense)
    assert tensors.read(without).state.keys() == tensors.read(archive).state.keys()


def made(folder, content, storage=bytes(range(24))):
    """An archive of this pickle and one storage; made without torch."""
    with zipfile.ZipFile(folder / "made.pt", "w") as archive:
        for name, data in (("data.pkl", content), ("constants.pkl", b"\x80\x02)."), ("data/0", storage)):
            archive.writestr(f"root/{name}", data)
    return folder / "made.pt"


def malicious(module, name, *arguments):
    """A pickle, of protocol 2, that calls a function."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + pickle.dumps(arguments, 2)[2:-1] + b"R."


def test_a_malicious_pickle_is_not_run(tmp_path):
    sentinel = tmp_path / "ran"
    for module, name, *arguments in (
        ("os", "system", f"touch {sentinel}"),
        ("posix", "system", f"touch {sentinel}"),
        ("builtins", "eval", f"open({str(sentinel)!r}, 'w')"),
        ("__builtin__", "eval", f"open({str(sentinel)!r}, 'w')"),
        ("torch", "load", str(sentinel)),
        ("torch._utils", "os.system", f"touch {sentinel}"),
        ("clip_jax.interop.files.torchscript", "np.save", str(sentinel), 1),
        ("numpy", "save", str(sentinel), 1),
        ("copyreg", "_reconstructor", 1, 2, 3),
    ):
        content = malicious(module, name, *arguments)
        text = refusal(made(tmp_path, content))
        assert f"more than weights: {module}.{name}. It was not run" in text
        assert not sentinel.exists()
    pickle.loads(malicious("os", "system", f"touch {sentinel}"))
    assert sentinel.exists()  # so the trap was one


def setting(what, state):
    """A pickle that gives the object made by `what` a state."""
    return b"\x80\x02" + what + pickle.dumps(state, 2)[2:-1] + b"b."


STORAGE_TYPE, REBUILD, CLASS = b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"c__torch__\nM\n"


@pytest.mark.parametrize(
    "what", [STORAGE_TYPE, REBUILD, CLASS, b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_parameter\n"]
)
@pytest.mark.parametrize("state", [{"dtype": 3, "__call__": 4}, (None, {"dtype": 3}), (None, {"__call__": 3}), [3]])
def test_stand_ins_cannot_be_changed(tmp_path, what, state):
    good = described(storage(), 1, (2, 2), (3, 1))
    before = tensors.read(made(tmp_path, good)).state["a"].tobytes()
    said = "damaged" if what == CLASS else "more than weights: to give"
    assert said in refusal(made(tmp_path, setting(what, state)))
    assert tensors.read(made(tmp_path, good)).state["a"].tobytes() == before


def test_modules_within_themselves(tmp_path):
    itself = b"\x80\x02" + CLASS + b")\x81q\x00}X\x01\x00\x00\x00ah\x00sb."  # m.a = m
    assert "without end" in refusal(made(tmp_path, itself))
    twice = CLASS + b")\x81q\x00}b"  # m0; then m(i+1).a = m(i+1).b = m(i): 2^40 names
    for i in range(40):
        name = bytes([i]), bytes([i + 1])
        twice += (
            CLASS + b")\x81q" + name[1] + b"}(X\x01\x00\x00\x00ah" + name[0] + b"X\x01\x00\x00\x00bh" + name[0] + b"ub"
        )
    assert "without end" in refusal(made(tmp_path, b"\x80\x02" + twice + b"."))


def test_pickles_that_would_fill_the_memory(tmp_path):
    assert "LONG_BINPUT 4294967295" in refusal(made(tmp_path, b"\x80\x02}r\xff\xff\xff\xff."))
    assert "past" in refusal(made(tmp_path, described(storage(), 0, (2**40,), (1,))))
    endless = tensors.read(made(tmp_path, described(storage(), 0, (2**40,), (0,)))).state["a"]
    assert endless.strides == (0,)  # a view: the caller sees its shape before it takes any memory
    refusal(made(tmp_path, b"\x80\x05\x96" + (2**50).to_bytes(8, "little") + b"."))


def described(storage, offset, shape, strides):
    """A pickle of a module whose attribute `a` is such a tensor."""
    tensor = REBUILD + b"((" + b"".join(storage) + b"tQ"
    tensor += b"".join(pickle.dumps(part, 2)[2:-1] for part in (offset, shape, strides, False)) + b"NtR"
    return b"\x80\x02" + CLASS + b")\x81}X\x01\x00\x00\x00a" + tensor + b"sb."


def storage(name="FloatStorage", key="0", elements=6):
    words = [pickle.dumps(word, 2)[2:-1] for word in ("storage", key, "cuda:0", elements)]
    return words[0], b"ctorch\n" + name.encode() + b"\n", *words[1:]


def test_tensors_stay_inside_their_storage(tmp_path):
    def read(*description, size=24):
        return made(tmp_path, described(*description), bytes(range(size)))

    good = tensors.read(read(storage(), 1, (2, 2), (3, 1))).state["a"]
    assert good.tobytes() == bytes([*range(4, 12), *range(16, 24)])
    assert "past the end" in refusal(read(storage(), 2, (2, 2), (3, 1)))
    assert "past the end" in refusal(read(storage(), 6, (), ()))
    assert "past the end" in refusal(read(storage(), 0, (2**62, 2**62), (2**62, 1)))
    assert "sizes (2,), strides (-1,)" in refusal(read(storage(), 1, (2,), (-1,)))
    assert "offset -1" in refusal(read(storage(), -1, (2,), (1,)))
    assert "sizes and strides" in refusal(read(storage(), 0, (2, 2), (1,)))
    assert "sizes and strides" in refusal(read(storage(), 0, 7, 8))
    assert "has 23 bytes, not 6 x 4" in refusal(read(storage(), 0, (2,), (1,), size=23))
    assert "is missing" in refusal(read(storage(key="../../data/0"), 0, (2,), (1,)))
    assert "not described as torch does" in refusal(read(storage(key=3), 0, (2,), (1,)))
    assert "torch.QInt8Storage" in refusal(read(storage("QInt8Storage"), 0, (2,), (1,)))


def test_damaged_archives(archive, tmp_path):
    content = archive.read_bytes()
    for size in range(0, len(content), len(content) // 30):
        (tmp_path / "a.pt").write_bytes(content[:size])
        refusal(tmp_path / "a.pt")
    assert "data/0, the bytes of a tensor, is missing" in refusal(
        rewritten(archive, tmp_path / "a.pt", {"data/0": None})
    )
    assert "is compressed" in refusal(rewritten(archive, tmp_path / "a.pt", {}, compressed=["data/0"]))
    assert "big-endian" in refusal(rewritten(archive, tmp_path / "a.pt", {"byteorder": b"big"}))
    for content in (b"", b"\x80\x02", b"\x80\x02K\x03.", b"\x80\x02}.", b"hello", entries(archive)[pkl(archive)][:300]):
        refusal(rewritten(archive, tmp_path / "a.pt", {"data.pkl": content}))
    flipped = bytearray(archive.read_bytes())
    flipped[flipped.index(np.arange(12, dtype=np.float32).tobytes()) + 5] ^= 1
    (tmp_path / "a.pt").write_bytes(flipped)
    assert "damaged" in refusal(tmp_path / "a.pt")


def pkl(path):
    return next(name for name in entries(path) if name.endswith("/data.pkl"))


def test_random_damage_of_the_pickle_never_runs_or_breaks_anything(archive, tmp_path):
    content = entries(archive)[pkl(archive)]
    rng = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 3):
            damaged[place] = rng.integers(256)
        path = rewritten(archive, tmp_path / "a.pt", {"data.pkl": bytes(damaged)})
        with contextlib.suppress(ValueError):
            tensors.read(path)
