"""Tars read by several processes: few shards, shards of any size, a slow disk. All give the stream of one process."""

import time
from pathlib import Path

import numpy as np
import pytest

from clip_jax.clock import Clock
from clip_jax.data import files
from clip_jax.data.pipeline import ReadConfig, Target, TrainStream
from clip_jax.data.source import Source
from clip_jax.data.webdataset import WebDataset
from clip_jax.tokenizer import Tokenizer
from tests.data.tars import open_shards, write_shards
from tests.data.test_pipeline import assert_same

TARGET = Target(image_size=8, tokenizer=Tokenizer(8))
THREADS = ReadConfig(workers=0)
SHARDS = {
    "one shard": [29],
    "one sample": [1],
    "uneven": [1, 17, 0, 5, 2],
    "fewer than a batch": [3, 2],
    "even": [8, 8],
}


def read(source: Source, steps: int, processes: int = 1, *, start_step: int = 0) -> list[dict[str, np.ndarray]]:
    """Global batches of 8, as all processes read them together."""
    streams = [
        TrainStream(
            source, TARGET, THREADS, seed=3, batch_size=8, start_step=start_step, process=process, processes=processes
        )
        for process in range(processes)
    ]
    try:
        shares = [[next(stream)[0] for _ in range(steps)] for stream in streams]
    finally:
        for stream in streams:
            stream.close()
    return [
        {name: np.concatenate([share[step][name] for share in shares]) for name in shares[0][step]}
        for step in range(steps)
    ]


@pytest.fixture(params=SHARDS.values(), ids=SHARDS.keys())
def source(request: pytest.FixtureRequest, tmp_path: Path) -> WebDataset:
    write_shards(tmp_path / "data", request.param)
    return open_shards(tmp_path / "data")


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_any_shards_and_processes_give_each_sample_once_an_epoch(source: WebDataset, processes: int) -> None:
    steps = 3 * len(source) // 8 + 1
    together = read(source, steps, processes)
    assert_same(together, read(source, steps))
    uids = np.concatenate([batch["uid"] for batch in together])
    expected = sorted(source.uid(index) for index in range(len(source)))
    for epoch in range(3):
        assert sorted(uids[epoch * len(source) : (epoch + 1) * len(source)].tolist()) == expected
    assert not any(batch["replaced"].any() for batch in together)


def test_a_run_may_go_on_with_more_processes_than_shards_or_fewer(source: WebDataset) -> None:
    whole = read(source, 6)
    assert_same(whole, read(source, 2, 2) + read(source, 2, 8, start_step=2) + read(source, 2, 1, start_step=4))


def test_a_batch_that_processes_cannot_share_is_an_error_before_the_first_step(source: WebDataset) -> None:
    for processes in (3, 16):
        with pytest.raises(ValueError, match=f"batch 8 does not split over {processes} processes"):
            read(source, 1, processes)


def test_processes_that_index_the_shards_each_for_itself_agree(tmp_path: Path) -> None:
    urls = write_shards(tmp_path / "data", [5, 1, 20])
    own = [open_shards(tmp_path / "data"), open_shards(tmp_path / "data", urls.replace("*", "{00000..00002}"))]
    assert own[0].shards() == own[1].shards()
    assert_same(read(own[0], 4), read(own[1], 4))


def test_a_slow_disk_changes_nothing_but_the_loader_s_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(tmp_path / "data", [1, 22])
    source = open_shards(tmp_path / "data")
    expected = read(source, 5, 2)
    at_once = files.Reader.read

    def slowly(self: files.Reader, offset: int, size: int) -> bytes:
        time.sleep(0.02)
        return at_once(self, offset, size)

    quick = TrainStream(source, TARGET, THREADS, seed=3, batch_size=8, process=0, processes=2)
    first = [next(quick)[0] for _ in range(5)]
    quick.close()
    monkeypatch.setattr(files.Reader, "read", slowly)
    slow = TrainStream(source, TARGET, THREADS, seed=3, batch_size=8, process=1, processes=2)
    clock, second = Clock(8, 1.0, None), []
    for _ in range(5):
        with clock.waiting():
            second.append(next(slow)[0])
        clock.tick()
    slow.close()
    joined = [
        {name: np.concatenate([one[name], other[name]]) for name in one}
        for one, other in zip(first, second, strict=True)
    ]
    assert_same(joined, expected)
    assert clock.figures()["loader_wait"] > 0.9


def test_a_shard_that_cannot_be_read_is_replaced_alike_by_any_number_of_processes(tmp_path: Path) -> None:
    write_shards(tmp_path / "data", [9, 2, 30])
    source = open_shards(tmp_path / "data")
    (tmp_path / "data" / "00001.tar").unlink()
    alone = read(source, 8)
    lost = {source.uid(9), source.uid(10)}
    assert not lost & {uid for batch in alone for uid in batch["uid"].tolist()}
    assert sum(int((batch["replaced"] > 0).sum()) for batch in alone[:5]) == 2
    for processes in (2, 4):
        assert_same(alone, read(source, 8, processes))
