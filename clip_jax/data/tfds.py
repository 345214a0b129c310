"""Data sets of TensorFlow Datasets, prepared as ArrayRecord and read in any order, without TensorFlow."""

import dataclasses
import difflib
import os
from typing import Any

import numpy as np

from clip_jax.data import tfds_fields
from clip_jax.data.source import BadSample, Sample, sample_uid


@dataclasses.dataclass(frozen=True, kw_only=True)
class TfdsConfig:
    """Which data set, and which of its features are the image and what is said of it.

    name: as in TFDS, "coco_captions" or "coco_captions/2014:1.1.0". split: "train", "train[:80%]", "train+test".
    data_dir: where it was prepared, by default TFDS's folder. download: prepare it there first if it is not.
    image_key, caption_key, label_key: paths such as "captions/text"; found by themselves where only one can be meant.
    A label_key without a caption_key makes captions of class names by `templates`, as does a data set without captions.
    classes: names in the place of the data set's own, which may be numbers or WordNet codes.
    """

    name: str
    split: str = "train"
    data_dir: str = ""
    download: bool = False
    image_key: str = ""
    caption_key: str = ""
    label_key: str = ""
    classes: tuple[str, ...] = ()
    templates: tuple[str, ...] = ("a photo of a {}.",)

    def __post_init__(self):
        for template in self.templates or ("",):
            if template.count("{}") != 1:
                raise ValueError(f"template {template!r}: give texts with one {{}} for the class name")


class Tfds:
    """A Source over a split of a prepared data set. Images come encoded, several captions of an image as one sample.

    name: with config and version, "coco_captions/2014/1.1.0". A uid comes from it, the base split and the position
    there, so "train[2:6]" and "train" agree on their common samples. Underscores in class names become spaces.
    Raises ValueError for a data set, split or feature that is not there, and says what is.
    """

    def __init__(self, config: TfdsConfig):
        import tensorflow_datasets as tfds

        builder = _builder(config)
        info = builder.info
        self.name: str = info.full_name
        fields = tfds_fields.find(
            self.name,
            info.features,
            image_key=config.image_key,
            caption_key=config.caption_key,
            label_key=config.label_key,
        )
        try:
            parts = info.splits[config.split].file_instructions
        except (ValueError, KeyError, AssertionError) as error:
            raise ValueError(f"{self.name}, split {config.split!r}: {error}") from error
        if not parts:
            raise ValueError(
                f"{self.name}, split {config.split!r}: no records; the splits are {', '.join(info.splits)}"
            )
        starts = {}  # file -> its split, and the position of its first record there
        for split in info.splits:
            position = 0
            for part in info.splits[split].file_instructions:
                starts[part.filename] = (split, position)
                position += part.take
        self._parts = [(os.path.basename(part.filename), *starts[part.filename], part.skip) for part in parts]
        self._ends = np.cumsum([part.take for part in parts], dtype=np.int64)
        self._image, self._caption, self._label = fields
        wanted = {path[0] for path in fields if path}
        self._features = tfds.features.FeaturesDict({key: info.features[key] for key in sorted(wanted)})
        self._decoders = _nest(fields.image, tfds.decode.SkipDecoding())
        self._records = builder.as_data_source(
            split=config.split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES, file_format="array_record"
        ).data_source
        assert len(self._records) == len(self)
        self.classes = _classes(config, self.name, info.features, fields.label)
        self._by_class = [tuple(template.replace("{}", name) for template in config.templates) for name in self.classes]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Sample:
        """Record `index` of the split. Raises BadSample for a damaged record, and for no caption or label."""
        uid = self.uid(index)
        try:
            example = self._features.deserialize_example_np(self._records[index], decoders=self._decoders)
        except Exception as error:  # of the reader or the parser, which have no types of their own
            raise BadSample(f"record does not parse: {type(error).__name__}: {error}") from error
        number = int(_follow(example, self._label)) if self._label else -1
        label = number if 0 <= number < len(self.classes) else None
        if self._caption:
            captions = tuple(text.strip() for text in _texts(_follow(example, self._caption)) if text.strip())
        else:
            captions = () if label is None else self._by_class[label]
        if not captions:
            raise BadSample("empty caption" if self._caption else f"no class with the label {number}")
        return Sample(uid=uid, image=_follow(example, self._image), captions=captions, label=label)

    def shard(self, index: int) -> str:
        """The base name of the ArrayRecord file."""
        return self._locate(index)[0]

    def uid(self, index: int) -> int:
        """From the full name, the base split and the position in it."""
        _, split, position = self._locate(index)
        return sample_uid(self.name, f"{split}/{position}")

    def _locate(self, index: int) -> tuple[str, str, int]:
        """(file, base split, position in the base split)."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: sample {index} of {len(self)}")
        part = int(np.searchsorted(self._ends, index, side="right"))
        file, split, start, skip = self._parts[part]
        before = int(self._ends[part - 1]) if part else 0
        return file, split, start + skip + index - before


def _builder(config: TfdsConfig) -> Any:
    """What reads a prepared data set's files. Its own code is not run, nothing is fetched without `download`."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import constants, read_only_builder

    folder = os.path.expanduser(config.data_dir) or None
    try:
        if config.download:
            tfds.builder(config.name, data_dir=folder, file_format="array_record").download_and_prepare()
        builder = read_only_builder.builder_from_files(config.name, data_dir=folder)
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(_not_found(config, folder or constants.DATA_DIR)) from error
    formats = {item.value for item in builder.info.available_file_formats()}
    if "array_record" not in formats:
        raise ValueError(
            f"{builder.info.full_name} in {builder.data_dir} is stored as {', '.join(sorted(formats))}; random access "
            f"needs array_record: run tfds build {config.name} --file_format=array_record with another --data_dir"
        )
    return builder


def _not_found(config: TfdsConfig, folder: str) -> str:
    import tensorflow_datasets as tfds

    base = config.name.partition("/")[0].partition(":")[0]
    here = sorted(path.name for path in tfds.core.Path(folder).glob(f"{base}/*"))
    if here:
        return f"data set {config.name!r} is not in {folder}, where {base} has {', '.join(here)}: name one of these"
    known = tfds.list_builders(with_community_datasets=False)
    if base in known:
        return (
            f"data set {config.name!r} is not prepared in {folder}: set data_dir to where it is, set download, or run "
            f"tfds build {config.name} --data_dir={folder} --file_format=array_record"
        )
    present = [path.name for path in tfds.core.Path(folder).glob("*")]
    near = difflib.get_close_matches(base, [*present, *known], 3)
    hint = f"; the nearest are {', '.join(near)}" if near else ""
    return f"data set {config.name!r} is neither in {folder} nor known to TFDS{hint}"


def _classes(config: TfdsConfig, name: str, features: Any, path: tuple[str, ...]) -> tuple[str, ...]:
    if not path:
        return ()
    own = _follow(features, path).names
    if config.classes and len(config.classes) != len(own):
        raise ValueError(f"{name} has {len(own)} classes in {'/'.join(path)}; {len(config.classes)} names are given")
    return tuple(text.replace("_", " ") for text in config.classes or own)


def _follow(nested: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        nested = nested[key]
    return nested


def _nest(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for key in reversed(path):
        value = {key: value}
    return value


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list | tuple | np.ndarray) else [value]
    try:
        return [text.decode("utf-8") if isinstance(text, bytes) else str(text) for text in values]
    except UnicodeDecodeError as error:
        raise BadSample(f"caption is not UTF-8: {error}") from error
