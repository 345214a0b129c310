"""A run whose training samples, or whose teacher's, are others when it goes on, or while it trains."""

import dataclasses
import json
import logging
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from clip_jax import run_folder
from clip_jax.cli.configs import to_dataclass
from clip_jax.data.webdataset import WebDatasetConfig
from clip_jax.experiment import TrainConfig
from clip_jax.train import train
from tests.cli.tars_config import get_config
from tests.data.tars import pairs, tar, write_shards


@pytest.fixture(scope="module", autouse=True)
def quick_compile():
    """The program of these runs is compiled once and run for a few steps."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """Four steps on three shards of 15 samples."""
    config = to_dataclass(get_config(write_shards(tmp_path / "data", [15] * 3)))
    assert isinstance(config.source, WebDatasetConfig)
    source = dataclasses.replace(config.source, index_cache=str(tmp_path / "cache"))
    return dataclasses.replace(config, steps=4, source=source)


def test_a_run_goes_on_with_the_samples_it_began_with_or_not_at_all(
    config: TrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shard, folder = tmp_path / "data" / "00001.tar", tmp_path / "run"
    assert not train(config, folder, stop=lambda step: step == 2).complete
    known = json.loads((folder / run_folder.DATA).read_text())
    assert [name for name, _ in known] == ["test/00000.tar", "test/00001.tar", "test/00002.tar"]
    whole, before = shard.read_bytes(), (folder / run_folder.METRICS).read_bytes()
    for other in (tar(pairs(15, 14)), tar(pairs(100, 15)), whole[:-12_000]):
        shard.write_bytes(other)
        with pytest.raises(ValueError, match=r"began with: of 3 parts: 1 changed \(test/00001.tar\). Put them back as"):
            train(config, folder)
    shard.unlink()
    with pytest.raises(ValueError, match=r"of 3 parts: 1 missing \(test/00001.tar\)"):
        train(config, folder)
    assert (folder / run_folder.METRICS).read_bytes() == before
    assert json.loads((folder / run_folder.DATA).read_text()) == known
    fewer = dataclasses.replace(config.source, urls=f"{tmp_path}/data/{{00000,00002}}.tar")
    with caplog.at_level(logging.WARNING):  # another source, named by whoever starts the run
        train(dataclasses.replace(config, source=fewer), folder, stop=lambda step: step == 3)
    assert "not those that this run began with: of 3 parts: 1 missing (test/00001.tar)" in caplog.text
    assert len(json.loads((folder / run_folder.DATA).read_text())) == 2


def test_data_may_be_copied_and_put_back(config: TrainConfig, tmp_path: Path) -> None:
    shard = tmp_path / "data" / "00001.tar"
    train(config, tmp_path / "whole")
    train(config, tmp_path / "run", stop=lambda step: step == 2)
    whole = shard.read_bytes()
    shard.write_bytes(b"")
    with pytest.raises(ValueError, match=r"00001.tar is no tar: it is empty"):
        train(config, tmp_path / "run")
    shard.write_bytes(whole)
    (tmp_path / "data").rename(tmp_path / "moved")
    moved = dataclasses.replace(config.source, urls=f"{tmp_path}/moved/*.tar")
    assert train(dataclasses.replace(config, source=moved), tmp_path / "run").complete
    metrics = [(tmp_path / name / run_folder.METRICS).read_bytes() for name in ("run", "whole")]
    assert metrics[0] == metrics[1]


def test_processes_that_find_other_samples_are_named(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gathered(own: np.ndarray, tiled: bool) -> np.ndarray:
        return np.concatenate([own, own, own + 1, own])

    monkeypatch.setattr(multihost_utils, "process_allgather", gathered)
    with pytest.raises(ValueError, match=r"processes \[2\] of 4 find other training samples than process 0"):
        train(config, tmp_path / "run")


def test_a_shard_that_changes_while_it_is_trained_on_is_counted_and_past_the_share_ends_the_run(
    config: TrainConfig, tmp_path: Path
) -> None:
    def stop(step: int) -> bool:
        if step == 1:
            (tmp_path / "data" / "00001.tar").write_bytes(tar(pairs(100, 15)) + bytes(512))
        return False

    read = dataclasses.replace(config.read, max_bad_share=1.0)
    train(dataclasses.replace(config, read=read), tmp_path / "run", stop=stop)
    bad = [json.loads(line) for line in (tmp_path / "run" / "bad_samples.jsonl").read_text().splitlines()]
    assert {Path(row["shard"]).name for row in bad} == {"00001.tar"}
    assert {row["reason"] for row in bad} == {"cannot be read: the file has changed since it was opened first"}
    last = json.loads((tmp_path / "run" / run_folder.METRICS).read_text().splitlines()[-1])
    assert last["replaced"] == len(bad) > 3
