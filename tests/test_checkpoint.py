"""A checkpoint whose proof is damaged is passed over as one whose arrays are; it is never taken for another model's."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clip_jax.checkpoint import CheckpointConfig, Checkpoints
from clip_jax.state import TrainState, new_state

PROOF = Path("2") / "proof" / "metadata"


def state_at(step: int) -> TrainState:
    params = {"visual": {"kernel": jnp.arange(12, dtype=jnp.float32).reshape(4, 3) + step}}
    return dataclasses.replace(new_state(params, optax.sgd(0.1), ema=True), step=jnp.array(step, jnp.int32))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints at steps 1 and 2. Tests copy them."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    for checkpoints in opened(folder):
        for step in (1, 2):
            checkpoints.wait()
            checkpoints.save(state_at(step), {})
        checkpoints.wait()
    return folder


def opened(folder: Path) -> Iterator[Checkpoints]:
    checkpoints = Checkpoints(folder, CheckpointConfig())
    yield checkpoints
    checkpoints.close()


def restored(folder: Path) -> int:
    """The step of what is read."""
    like = state_at(0)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
    for checkpoints in opened(folder):
        found = checkpoints.restore(abstract)
        assert found is not None
        step = int(found.step)
        for ours, expected in zip(jax.tree.leaves(found), jax.tree.leaves(state_at(step)), strict=True):
            assert (ours == expected).all()
        return step
    raise AssertionError


@pytest.mark.parametrize(
    "place", ["fingerprints", "['params']['visual']", "['rest']['step']", "['ema']", "digit", "checksum", "last digit"]
)
def test_a_flipped_byte_in_the_proof(written: Path, tmp_path: Path, place: str) -> None:
    folder = shutil.copytree(written, tmp_path / "checkpoints")
    data = bytearray((folder / PROOF).read_bytes())
    digits = [at for at, byte in enumerate(data) if chr(byte).isdigit()]
    at = {"digit": digits[0], "last digit": digits[-1]}.get(place) or data.index(place.encode()) + len(place) - 3
    data[at] ^= 1
    (folder / PROOF).write_bytes(data)
    assert restored(folder) == 1
    assert [step.name for step in (tmp_path / "damaged").iterdir()] == ["2"]


def test_a_proof_of_before_there_were_checksums(written: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(written, tmp_path / "checkpoints")
    proof = json.loads((folder / PROOF).read_text())
    assert proof.pop("checksum")
    (folder / PROOF).write_text(json.dumps(proof))
    assert restored(folder) == 2


def test_arrays_that_devices_share_are_cut_where_that_is_worth_a_program(mesh8: Mesh, tmp_path: Path) -> None:
    """Sizes occur nowhere else, so that no program was compiled before."""
    replicated = NamedSharding(mesh8, PartitionSpec())

    def programs(name: str, rows: int) -> int:
        """How many a save of four arrays of so many rows compiles."""
        arrays = {str(number): jnp.ones((rows + 8 * number, 13)) for number in range(4)}
        state = new_state({"visual": arrays}, optax.identity(), ema=False)
        state = jax.device_put(state, replicated)
        compiled: list[str] = []

        def count(event: str, _: float, **more: object) -> None:
            compiled.append(event) if event.endswith("backend_compile_duration") else None

        jax.monitoring.register_event_duration_secs_listener(count)
        try:
            for checkpoints in opened(tmp_path / name):
                checkpoints.save(state, {})
                checkpoints.wait()
        finally:
            jax.monitoring.unregister_event_duration_listener(count)
        return len(compiled)

    fingerprints = 1
    assert programs("small", 1024) <= fingerprints
    assert programs("large", 162_000) > 4  # 52 bytes a row, over eight devices
