"""What a run writes beside its checkpoints, on a disk with room and on one without."""

import contextlib
import json
import logging
import resource
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clip_jax.writers import JsonlWriter, TensorBoardWriter


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """A context in which files cannot grow beyond so many bytes: writes fail in the middle, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_rows_wait_for_room_and_keep_their_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = JsonlWriter(tmp_path / "rows.jsonl", 0)
    with caplog.at_level(logging.WARNING), room_for(100):
        for step in range(1, 11):
            writer.write(step, {"loss": 0.5, "norm": float("nan")})
    assert [record.message.split("; ")[1] for record in caplog.records] == ["what belongs there waits for room"]
    assert (tmp_path / "rows.jsonl").stat().st_size == 100
    writer.write(11, {"loss": 0.5, "norm": float("nan")})
    writer.close()
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert rows == [{"step": step, "loss": 0.5, "norm": None} for step in range(1, 12)]


def test_what_never_finds_room_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = JsonlWriter(tmp_path / "rows.jsonl", 0)
    with caplog.at_level(logging.WARNING), room_for(4):
        writer.write(1, {"a": 1})
        writer.close()
    assert caplog.messages[-1].endswith("rows.jsonl lacks its last 16 bytes")


def test_events_are_those_of_tensorboardx(tmp_path: Path) -> None:
    from tensorboardX import SummaryWriter

    figures = {"loss": 1.5, "val/top1": 0.25}
    ours, theirs = TensorBoardWriter(tmp_path / "ours", 3), SummaryWriter(str(tmp_path / "theirs"), purge_step=4)
    with room_for(60):
        ours.write(4, figures)
    ours.close()
    for name, value in figures.items():
        theirs.add_scalar(name, value, 4)
    theirs.close()
    found = events(tmp_path / "ours")
    wanted = [event for event in events(tmp_path / "theirs") if event.step != 4 or not event.file_version]
    for event in (*found, *wanted):
        event.wall_time = 0
    assert len(found) == 4
    assert found == wanted


def events(folder: Path) -> list[Any]:
    """Of the one file there; checksums as tensorboardX computes them."""
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import masked_crc32c

    messages: Any = event_pb2
    [file] = folder.glob("events.out.tfevents.*")
    content, found = file.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        body = content[12 : 12 + length]
        sums = struct.unpack("<I", content[8:12]) + struct.unpack("<I", content[12 + length : 16 + length])
        assert sums == (masked_crc32c(content[:8]), masked_crc32c(body))
        found.append(messages.Event.FromString(body))
        content = content[16 + length :]
    return found
