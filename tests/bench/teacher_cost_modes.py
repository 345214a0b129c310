"""The same student in three trainings, without a teacher, with a stored one, with a live one, as `clip-jax train` runs them.

The teacher's weights and the stored embeddings are random: what a step costs does not depend on their values. Pictures
are random too, and cheap to read, so that what the store costs the loader is not hidden behind decoding.
"""

import dataclasses
import os
import time
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from clip_jax import sharding, tree
from clip_jax.data.pipeline import ReadConfig, TrainStream
from clip_jax.data.source import Sample, sample_uid
from clip_jax.data.teacher_index import finish_store
from clip_jax.data.teacher_manifest import Manifest, SourceInfo, TeacherInfo
from clip_jax.data.teacher_shards import ShardRows, write_shard
from clip_jax.evals.embed import eval_target
from clip_jax.experiment import Plan, TrainConfig
from clip_jax.interop import folder as ours
from clip_jax.interop.files import tensors
from clip_jax.models.clip import init_params
from clip_jax.models.presets import preset
from clip_jax.objectives import ObjectiveConfig
from clip_jax.teachers import LiveTeacher, StoreTeacher, TeacherConfig
from clip_jax.teaching import open_teachers

MODES = ("plain", "stored", "live")
TEACHER, STUDENT = "ViT-L-14", "ViT-T-16"
# CLIP-KD's headline mix, the one with the most to compute of those usually chosen.
MIX = {"info_nce": 1.0, "crd": 1.0, "fd": 2000.0, "icl": 1.0}
_SHARD = 8192  # rows
_DRAWN = 64  # pictures that differ in their pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """batch: pairs a step. dtype: of both models' activations, and of the live teacher's weights. workers: processes that
    read. samples: of the data set."""

    batch: int
    dtype: Literal["float32", "bfloat16"]
    workers: int
    samples: int


def setting() -> Setting:
    """What this machine can bear: on CPU 8 pairs, in f32, which is the faster there; else 256 a device, in bf16."""
    if jax.default_backend() == "cpu":
        return Setting(batch=8, dtype="float32", workers=0, samples=2048)
    workers = max(2, min(8, (os.cpu_count() or 2) // 2))
    return Setting(batch=256 * jax.device_count(), dtype="bfloat16", workers=workers, samples=65_536)


def caption(index: int) -> str:
    """Of a picture."""
    return f"picture number {index} of many, all of them noise"


class Pictures:
    """Noise of `side` pixels, each with one caption."""

    name, classes = "pictures", ()

    def __init__(self, samples: int, side: int):
        self._samples = samples
        self._drawn = np.random.default_rng(0).integers(0, 256, (_DRAWN, side, side, 3), np.uint8)

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int) -> Sample:
        image = self._drawn[index % _DRAWN]
        return Sample(uid=self.uid(index), image=image, captions=(caption(index),))

    def shard(self, index: int) -> str:
        return "pictures"

    def uid(self, index: int) -> int:
        return sample_uid(self.name, str(index))


def pictures(samples: int) -> Pictures:
    """Of the student's resolution."""
    return Pictures(samples, preset(STUDENT).vision_cfg.image_size)


def write_teacher(path: Path) -> None:
    """The teacher's random weights, as a folder that `clip_jax.load` opens."""
    config = preset(TEACHER)
    path.mkdir(parents=True)
    params = tree.leaves_by_path(jax.jit(lambda key: init_params(config, key))(jax.random.key(0)))
    tensors.write(path / ours.WEIGHTS, {name: np.asarray(leaf) for name, leaf in params.items()}, {})
    ours.write_settings(path, config, layout="clip_jax", origin={})


def write_store(path: Path, source: Pictures) -> None:
    """What `clip-jax embed --captions` would have left, with random rows."""
    path.mkdir(parents=True)
    dim, rng = preset(TEACHER).embed_dim, np.random.default_rng(0)
    manifest = Manifest(
        teacher=TeacherInfo(name=TEACHER, weights_hash="0" * 32, embed_dim=dim, logit_scale=float(np.log(100))),
        tokenizer="clip",
        preprocessing={},
        source=SourceInfo(name=source.name, samples=len(source)),
        captions=True,
        rows_per_shard=_SHARD,
    )
    shards = []
    for number, start in enumerate(range(0, len(source), _SHARD)):
        indices = range(start, min(start + _SHARD, len(source)))
        image, text = (_unit(rng, len(indices), dim) for _ in range(2))
        rows = ShardRows(
            uid=np.array([source.uid(index) for index in indices], np.uint64),
            image=image[:, None],
            captions=[source[index].captions for index in indices],
            text=text,
        )
        shards.append(write_shard(path, number, rows, dtype=manifest.dtype))
    finish_store(path, manifest, shards)


def _unit(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
    rows = rng.standard_normal((count, dim), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """seconds: of the whole step, in which it waited for the loader, and brought the batch to the device and filled in its
    targets. cpu: seconds of processors, of all threads of this process."""

    seconds: float
    waiting: float
    filling: float
    cpu: float


class Training:
    """One of MODES, ready to step. folder: holds `teacher` and `store`."""

    def __init__(self, mode: str, folder: Path):
        chosen = setting()
        model = dataclasses.replace(preset(STUDENT), dtype=chosen.dtype)
        teachers: dict[str, dict[str, TeacherConfig]] = {
            "plain": {},
            "stored": {"teacher": StoreTeacher(path=str(folder / "store"))},
            "live": {"teacher": LiveTeacher(model=str(folder / "teacher"), dtype=chosen.dtype)},
        }
        config = TrainConfig(
            model=model,
            batch_size=chosen.batch,
            read=ReadConfig(augmentation=None, workers=chosen.workers),
            objective=ObjectiveConfig(weights=MIX if teachers[mode] else {"info_nce": 1.0}),
            teachers=teachers[mode],
        )
        source = pictures(chosen.samples)
        opened = open_teachers(config, source)
        self.plan = Plan(config, opened.offers)
        self.fill = opened.on(self.plan)
        self.compiled = self.plan.step.lower(self.plan.state, self.plan.batch()).compile()
        self._state = self.plan.initial_state()
        self._stream = TrainStream(
            source, eval_target(model), config.read, seed=0, batch_size=chosen.batch, taught=opened.taught
        )

    def step(self) -> Step:
        """As the train loop's, but that the next one does not begin before this one has ended."""
        began, cpu = time.perf_counter(), time.process_time()
        batch, _ = next(self._stream)
        read = time.perf_counter()
        batch.pop("uid")
        filled = self.fill(sharding.to_global(batch, self.plan.mesh), self._state)
        jax.block_until_ready(filled)
        ready = time.perf_counter()
        self._state, metrics = self.compiled(self._state, filled)
        jax.block_until_ready((self._state, metrics))
        ended = time.perf_counter()
        spent = time.process_time() - cpu
        return Step(seconds=ended - began, waiting=read - began, filling=ready - read, cpu=spent)

    def teacher_program(self) -> jax.stages.Compiled:
        """What computes a live teacher's targets, as training runs it."""
        (params,), (run,) = self.fill._live.values(), [self.fill._runs["teacher"]]
        batch, _ = next(self._stream)
        given = sharding.to_global(batch["teachers"]["teacher"], self.plan.mesh)
        return run.lower(params, given).compile()

    def close(self) -> None:
        """Ends what reads."""
        self._stream.close()
