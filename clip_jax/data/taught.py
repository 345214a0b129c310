"""What a training batch holds for teachers: stored embeddings by uid, or images and texts as a live teacher wants them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clip_jax.data.images import Augmentation, draw_view, preprocess
from clip_jax.data.source import BadSample, Sample, Source
from clip_jax.data.teacher_store import TeacherStore
from clip_jax.data.views import View, apply_view
from clip_jax.tokenizer import Tokenizer
from clip_jax.tokenizer_file import FileTokenizer

_LOOKED_AT = 16  # samples that are searched for generated captions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """What the model takes: image_size in pixels, texts by its tokenizer; how evaluation fits images into the square."""

    image_size: int
    tokenizer: Tokenizer | FileTokenizer = Tokenizer()
    resize_mode: Any = "shortest"
    interpolation: str = "bicubic"
    fill_color: int = 0

    def plain(self, pixels: np.ndarray) -> np.ndarray:
        """u8[H, W, 3] -> u8[S, S, 3] as evaluation sees it."""
        return preprocess(
            pixels,
            self.image_size,
            resize_mode=self.resize_mode,
            interpolation=self.interpolation,
            fill_color=self.fill_color,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Taught:
    """stores: by teacher. live: what each live teacher takes. synthetic, label: whether batches hold generated captions and
    labels."""

    stores: Mapping[str, TeacherStore] = dataclasses.field(default_factory=dict)
    live: Mapping[str, Target] = dataclasses.field(default_factory=dict)
    synthetic: bool = False
    label: bool = False

    def min_side(self, student: Target, augmentation: Augmentation | None) -> int:
        """The shorter side in pixels that images are decoded to at least: enough for any crop, of a store's views where one
        has them, else of `augmentation`."""
        size = max(target.image_size for target in (student, *self.live.values()))
        for store in self.stores.values():
            if store.manifest.views is not None:
                augmentation = store.manifest.views.augmentation
        return size if augmentation is None else augmentation.min_side(size)

    def make(
        self,
        student: Target,
        augmentation: Augmentation | None,
        sample: Sample,
        pixels: np.ndarray,
        rng: np.random.Generator,
    ) -> dict[str, Any]:
        """One sample's part of a batch, but for its texts: the same view of the image for the student and live teachers.

        Where a store holds views, one of them is drawn and replayed; its number stands under "view". augmentation: None for
        images as evaluation sees them. A sample without generated captions gives one of its others in their place. Raises
        BadSample for a sample that a store has no embedding of.
        """
        number, view, interpolation = 0, None, "bicubic"
        for name, store in self.stores.items():
            row = int(store.rows(np.array([sample.uid], np.uint64))[0])
            if row < 0:
                raise BadSample(f"teacher {name!r} has no embedding of it")
            views = store.manifest.views
            if views is not None and view is None:
                number = int(rng.integers(views.count))
                view, interpolation = store.view(row, number), views.augmentation.interpolation
        if view is None and augmentation is not None:
            view = draw_view(pixels.shape[0], pixels.shape[1], rng, augmentation)
            interpolation = augmentation.interpolation
        made: dict[str, Any] = {"image": _seen(student, pixels, view, interpolation), "view": number}
        if self.live:
            made["live"] = {name: _seen(target, pixels, view, interpolation) for name, target in self.live.items()}
        if self.label:
            made["label"] = -1 if sample.label is None else sample.label
        if self.synthetic:
            captions = sample.synthetic or sample.captions
            made["synthetic"] = captions[int(rng.integers(len(captions)))]
        return made

    def collate(self, student: Target, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch's `teachers`, by name: of a store the embeddings f32[b, D] image, text, synthetic; of a live teacher
        image u8[b, S, S, 3], text, synthetic i32[b, L]. And synthetic i32[b, L], label i32[b] where they are wanted."""
        captions = [sample["caption"] for sample in samples]
        synthetic = [sample["synthetic"] for sample in samples] if self.synthetic else None
        teachers: dict[str, dict[str, np.ndarray]] = {}
        for name, store in self.stores.items():
            rows = store.rows(np.array([sample["uid"] for sample in samples], np.uint64))
            views = np.array([sample["view"] for sample in samples]) % store.manifest.image_views
            teachers[name] = {"image": store.image(rows, views)}
            if store.manifest.captions:
                teachers[name]["text"] = store.text(rows, captions)
                if synthetic is not None:
                    teachers[name]["synthetic"] = store.text(rows, synthetic)
        for name, target in self.live.items():
            teachers[name] = {
                "image": np.stack([sample["live"][name] for sample in samples]),
                "text": target.tokenizer(captions),
            }
            if synthetic is not None:
                teachers[name]["synthetic"] = target.tokenizer(synthetic)
        batch: dict[str, Any] = {"teachers": teachers} if teachers else {}
        if synthetic is not None:
            batch["synthetic"] = student.tokenizer(synthetic)
        if self.label:
            batch["label"] = np.array([sample["label"] for sample in samples], np.int32)
        return batch


def check_generated(source: Source) -> None:
    """Raises ValueError where none of the first samples that can be read has a generated caption: `Taught.make` would give
    real ones in their place, of all samples, and the terms of generated captions would be those of the real ones again."""
    looked = 0
    for index in range(len(source)):
        if looked == _LOOKED_AT:
            break
        try:
            sample = source[index]
        except BadSample:
            continue
        if sample.synthetic:
            return
        looked += 1
    if looked:
        raise ValueError(
            f"none of the first {looked} samples of {source.name!r} has a generated caption, and a term of objective.weights "
            "needs them; say where they are (WebDatasetConfig.synthetic_keys, TableConfig.synthetic_key, "
            "GlyphsConfig.synthetic), or leave out the terms that end in _synthetic"
        )


def _seen(target: Target, pixels: np.ndarray, view: View | None, interpolation: str) -> np.ndarray:
    return target.plain(pixels) if view is None else apply_view(pixels, target.image_size, view, interpolation)
