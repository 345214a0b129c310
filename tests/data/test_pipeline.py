"""The stream: a pure function of (seed, step, k), whatever the number of processes and workers."""

import dataclasses
import io
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from PIL import Image

from clip_jax.data.glyphs import Glyphs, GlyphsConfig
from clip_jax.data.images import Augmentation
from clip_jax.data.pipeline import Bad, EvalItem, ReadConfig, Target, TrainStream, eval_items
from clip_jax.data.source import BadSample, Sample, Source, sample_uid
from clip_jax.tokenizer import Tokenizer
from clip_jax.tokenizer_file import FileTokenizer

TARGET = Target(image_size=16, tokenizer=Tokenizer(12))
SEVERE = Augmentation(
    scale=(0.2, 1.0), flip=0.5, color_jitter=(0.4, 0.4, 0.4, 0.1), color_jitter_prob=0.8, gray_scale_prob=0.2
)
THREADS = ReadConfig(workers=0, augmentation=SEVERE)


class Numbers:
    """`count` samples whose image and captions tell their index; those in `bad` cannot be read."""

    name = "numbers"
    classes = ()

    def __init__(self, count: int, bad: frozenset[int] = frozenset(), empty: frozenset[int] = frozenset()):
        self._count, self._bad, self._empty = count, bad, empty

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        if index in self._bad:
            raise BadSample("torn")
        captions = (" ",) if index in self._empty else (f"number {index}", f"the {index}", f"{index} again")
        image = np.full((20, 20, 3), index % 256, np.uint8)
        return Sample(uid=self.uid(index), image=image, captions=captions)

    def shard(self, index: int) -> str:
        return f"shard-{index // 10}"

    def uid(self, index: int) -> int:
        return sample_uid(self.name, str(index))


def batches(source: Source, steps: int, config: ReadConfig = THREADS, **options: int) -> list[dict[str, np.ndarray]]:
    stream = TrainStream(source, TARGET, config, **({"seed": 3, "batch_size": 8} | options))
    try:
        return [next(stream)[0] for _ in range(steps)]
    finally:
        stream.close()


def assert_same(one: list[dict[str, np.ndarray]], other: list[dict[str, np.ndarray]]) -> None:
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for name in left:
            np.testing.assert_array_equal(left[name], right[name], err_msg=name)


@pytest.fixture(scope="module")
def glyphs() -> Glyphs:
    return Glyphs(GlyphsConfig(split="validation", size=16))


def test_shapes_and_types(glyphs: Glyphs) -> None:
    (batch,) = batches(glyphs, 1)
    assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
        "image": ((8, 16, 16, 3), "uint8"),
        "text": ((8, 12), "int32"),
        "uid": ((8,), "uint64"),
        "replaced": ((8,), "int32"),
    }


def test_the_same_seed_gives_the_same_stream_and_another_another(glyphs: Glyphs) -> None:
    assert_same(batches(glyphs, 3), batches(glyphs, 3))
    other = batches(glyphs, 3, seed=4)
    assert not np.array_equal(batches(glyphs, 1)[0]["uid"], other[0]["uid"])


@pytest.mark.parametrize("start", [1, 4])
def test_starting_at_a_step_gives_the_stream_from_there(glyphs: Glyphs, start: int) -> None:
    assert_same(batches(glyphs, 6)[start:], batches(glyphs, 6 - start, start_step=start))


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_read_consecutive_slices_of_the_same_global_batch(glyphs: Glyphs, processes: int) -> None:
    whole = batches(glyphs, 3)
    parts = [batches(glyphs, 3, process=process, processes=processes) for process in range(processes)]
    joined = [{name: np.concatenate([part[step][name] for part in parts]) for name in whole[step]} for step in range(3)]
    assert_same(whole, joined)


def test_workers_and_threads_give_the_same_stream(glyphs: Glyphs) -> None:
    workers = dataclasses.replace(THREADS, workers=2)
    assert_same(batches(glyphs, 5), batches(glyphs, 5, workers))


@pytest.mark.parametrize("workers", [0, 1])
def test_captions_go_through_the_model_s_tokenizer(tmp_path: Path, workers: int) -> None:
    words = {word: i for i, word in enumerate(["[PAD]", *["the", "number", "again"], *map(str, range(24))])}
    engine = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[PAD]"))
    engine.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    engine.save(str(tmp_path / "tokenizer.json"))
    tokenizer = FileTokenizer(tmp_path / "tokenizer.json", context_length=4, vocab_size=len(words))
    target, source = Target(image_size=16, tokenizer=tokenizer), Numbers(24)
    stream = TrainStream(source, target, ReadConfig(workers=workers), seed=3, batch_size=8)
    try:
        batch, _ = next(stream)
    finally:
        stream.close()
    captions = {source.uid(i): tokenizer(list(source[i].captions)).tolist() for i in range(24)}
    assert batch["text"].shape == (8, 4)
    for uid, row in zip(batch["uid"].tolist(), batch["text"].tolist(), strict=True):
        assert row in captions[uid]


def test_an_epoch_visits_each_sample_once_in_an_order_of_its_own() -> None:
    source = Numbers(24)
    uids = np.concatenate([batch["uid"] for batch in batches(source, 9)]).reshape(3, 24)
    expected = {source.uid(index) for index in range(24)}
    for epoch in uids:
        assert set(epoch.tolist()) == expected
    assert not np.array_equal(uids[0], uids[1])
    assert not np.array_equal(uids[1], uids[2])


def test_a_batch_larger_than_the_source_runs_into_the_next_epoch() -> None:
    (batch,) = batches(Numbers(3), 1)
    assert len(batch["uid"]) == 8


def test_each_visit_draws_a_caption_and_an_augmentation(glyphs: Glyphs) -> None:
    one = dataclasses.replace(THREADS, augmentation=Augmentation(scale=(0.2, 1.0)))
    seen = batches(Numbers(1), 6, one)
    assert len({row.tobytes() for batch in seen for row in batch["text"]}) == 3
    drawing = batches(_One(glyphs), 2, one)
    assert len({image.tobytes() for batch in drawing for image in batch["image"]}) > 8


class _One(Numbers):
    def __init__(self, inner: Glyphs):
        super().__init__(1)
        self._inner = inner

    def __getitem__(self, index: int) -> Sample:
        return self._inner[5]


def test_bad_samples_are_replaced_by_good_ones_and_reported() -> None:
    bad = frozenset({3, 4, 10})
    source, whole = Numbers(16, bad=bad, empty=frozenset({11})), Numbers(16)
    stream = TrainStream(source, TARGET, THREADS, seed=0, batch_size=8)
    found, reports = zip(*[next(stream) for _ in range(2)], strict=True)
    stream.close()
    assert_same(list(found), batches(source, 2, seed=0))
    torn = {source.uid(index) for index in bad | {11}}
    for batch, expected, report in zip(found, batches(whole, 2, seed=0), reports, strict=True):
        replaced = batch["replaced"] > 0
        assert not torn & set(batch["uid"].tolist())
        assert set(expected["uid"][replaced].tolist()) <= torn
        for name in ("image", "text", "uid"):
            np.testing.assert_array_equal(batch[name][~replaced], expected[name][~replaced])
        assert int(batch["replaced"].sum()) == len(report)
    said = {(entry.uid, entry.shard, entry.reason) for report in reports for entry in report}
    assert said == {
        (source.uid(3), "shard-0", "torn"),
        (source.uid(4), "shard-0", "torn"),
        (source.uid(10), "shard-1", "torn"),
        (source.uid(11), "shard-1", "empty caption"),
    }
    assert sum(len({entry.index for entry in report}) for report in reports) == 4


def test_a_replacement_depends_on_the_seed_and_the_place_in_the_stream() -> None:
    source = Numbers(200, bad=frozenset(range(60, 100)))
    whole = batches(source, 20)
    assert_same(whole[7:], batches(source, 13, start_step=7))
    assert_same(whole, batches(source, 20, dataclasses.replace(THREADS, workers=2)))
    halves = [batches(source, 20, process=process, processes=2) for process in range(2)]
    for step, batch in enumerate(whole):
        np.testing.assert_array_equal(batch["uid"], np.concatenate([half[step]["uid"] for half in halves]))


def test_many_bad_samples_side_by_side_do_not_end_the_run() -> None:
    lost = frozenset(range(400, 470))
    source = Numbers(1_000, bad=lost)
    epoch = batches(source, 125)
    uids = np.concatenate([batch["uid"] for batch in epoch])
    replaced = np.concatenate([batch["replaced"] for batch in epoch])
    assert (replaced > 0).sum() == len(lost)
    assert replaced.max() < 5
    assert not {source.uid(index) for index in lost} & set(uids.tolist())
    assert len(set(uids[replaced > 0].tolist())) > 60  # from all over the source


def test_a_source_without_a_readable_sample_is_an_error() -> None:
    message = r"64 samples in a row, drawn from all of 'numbers', cannot be read; the last one, in shard-\d+: torn"
    with pytest.raises(ValueError, match=message):
        batches(Numbers(100, bad=frozenset(range(100))), 1)


RUN = """
import multiprocessing, sys
from clip_jax.data.glyphs import Glyphs, GlyphsConfig
from clip_jax.data.pipeline import ReadConfig, Target, TrainStream
from clip_jax.tokenizer import Tokenizer

if __name__ == "__main__":
    source = Glyphs(GlyphsConfig(split="validation", size=16))
    target = Target(image_size=16, tokenizer=Tokenizer(12))
    stream = TrainStream(source, target, ReadConfig(workers=1), seed=0, batch_size=8)
    next(stream)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    for _ in sys.stdin:
        for _ in range(20):
            next(stream)
        print("twenty more", flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc whether a process lives")
@pytest.mark.parametrize("ended_by", ["kill -9", "its last line"])
def test_workers_leave_signals_to_the_parent_and_end_with_it(ended_by: str, tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(RUN)
    run = subprocess.Popen(
        [sys.executable, str(tmp_path / "run.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    worker = 0
    try:
        assert run.stdin is not None
        assert run.stdout is not None
        worker = int(run.stdout.readline())
        os.kill(worker, signal.SIGINT)
        os.kill(worker, signal.SIGTERM)
        print(file=run.stdin, flush=True)
        assert run.stdout.readline() == "twenty more\n"
        assert _lives(worker)
        if ended_by == "kill -9":
            run.kill()
        else:
            run.stdin.close()
            run.stdin = None
        run.wait(30)
        deadline = time.monotonic() + 10
        while _lives(worker) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _lives(worker)
    finally:
        run.kill()
        if worker and _lives(worker):
            os.kill(worker, signal.SIGKILL)
        run.communicate()


def _lives(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"  # ended, though nobody has asked yet how


def test_undecodable_bytes_are_bad_samples() -> None:
    class Torn(Numbers):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            return dataclasses.replace(sample, image=b"not an image") if index == 1 else sample

    found = batches(Torn(8), 1)
    assert found[0]["replaced"].sum() == 1


def test_large_jpegs_are_decoded_small_enough_to_be_fast_and_large_enough_to_crop() -> None:
    buffer = io.BytesIO()
    Image.effect_noise((800, 600), 60).convert("RGB").save(buffer, "JPEG")

    class Photo(Numbers):
        def __getitem__(self, index: int) -> Sample:
            return dataclasses.replace(super().__getitem__(index), image=buffer.getvalue())

    (batch,) = batches(Photo(8), 1)
    assert batch["image"].std() > 5


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (Numbers(0), {}, "'numbers' is empty"),
        (Numbers(4), {"batch_size": 9, "processes": 2}, "batch 9 does not split over 2 processes"),
    ],
)
def test_errors(source: Source, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batches(source, 1, **options)


def test_wrong_read_configs() -> None:
    with pytest.raises(ValueError, match="workers at least 0"):
        batches(Numbers(8), 1, ReadConfig(workers=-1))


def test_eval_items_come_in_order_unaugmented_with_all_captions() -> None:
    source = Numbers(12, bad=frozenset({5}))
    items = list(eval_items(source, TARGET, range(2, 9)))
    assert [item.index for item in items] == list(range(2, 9))
    assert isinstance(items[3], Bad)
    assert items[3].reason == "torn"
    good = items[4]
    assert isinstance(good, EvalItem)
    assert good.captions == ("number 6", "the 6", "6 again")
    assert good.image.shape == (16, 16, 3)
    assert (good.image == 6).all()


def test_the_stream_reader_is_small_to_pickle(glyphs: Glyphs) -> None:
    assert len(pickle.dumps(glyphs)) < 2e6
