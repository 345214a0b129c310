"""Data sets of TFDS, prepared here as ArrayRecord without TensorFlow: captions, labels, slices and clear refusals."""

import io
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from clip_jax.data import tfds_fields
from clip_jax.data.images import decode
from clip_jax.data.source import BadSample, sample_uid
from clip_jax.data.tfds import Tfds, TfdsConfig

F = tfds.features
IMAGE = F.Image(shape=(None, None, 3))


def png(shade: int) -> io.BytesIO:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(buffer, "PNG")
    buffer.seek(0)
    return buffer


class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The base of the data sets here: subclasses give FEATURES and an example."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # a test module is in no package that TFDS could look for checksums in
    FEATURES: ClassVar[dict]

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=F.FeaturesDict(self.FEATURES))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0, 10), "test": self._generate_examples(100, 3)}

    def _generate_examples(self, start, count):
        for i in range(start, start + count):
            yield i, self.example(i)  # each set below has its own


class TinyCaptions(Tiny):
    """As coco_captions is built."""

    FEATURES: ClassVar = {
        "image": IMAGE,
        "image/filename": F.Text(),
        "captions": F.Sequence({"id": np.int64, "text": F.Text()}),
        "objects": F.Sequence({"bbox": F.BBoxFeature(), "label": F.ClassLabel(num_classes=3)}),
        "mask": F.Tensor(shape=(None,), dtype=np.float32),
    }

    def example(self, i):
        texts = [] if i == 101 else [" "] if i == 102 else [f"a {i}", f"größe {i}"]
        box = F.BBox(0.0, 0.0, 0.5, 0.5)
        return {
            "image": png(i),
            "image/filename": f"{i}.png",
            "captions": [{"id": i, "text": text} for text in texts],
            "objects": [{"bbox": box, "label": 1}] * (i % 3),
            "mask": np.arange(i % 4, dtype=np.float32),
        }


class TinyLabels(Tiny):
    """As an image classification set is built, with unlabelled images in the test split."""

    FEATURES: ClassVar = {"id": F.Text(), "image": IMAGE, "label": F.ClassLabel(names=["tabby_cat", "dog"])}

    def example(self, i):
        return {"id": str(i), "image": png(i), "label": i % 2 if i < 100 else -1}


class TinyNested(Tiny):
    """Everything a level down, and more than one of each."""

    FEATURES: ClassVar = {
        "views": F.FeaturesDict({"left": IMAGE, "right": IMAGE}),
        "alts": F.Sequence(F.Text()),
        "title": F.Text(),
        "coarse": F.ClassLabel(names=["a", "b"]),
        "fine": F.ClassLabel(names=["c", "d", "e"]),
    }

    def example(self, i):
        views = {"left": png(i), "right": png(200)}
        return {"views": views, "alts": ["x", "y"], "title": f"t {i}", "coarse": 1, "fine": 2}


class TinySounds(Tiny):
    FEATURES: ClassVar = {"audio": F.Tensor(shape=(2,), dtype=np.int64), "text": F.Text()}

    def example(self, i):
        return {"audio": [i, i], "text": "x"}


class TinyPictures(Tiny):
    FEATURES: ClassVar = {"image": IMAGE, "size": np.int64}

    def example(self, i):
        return {"image": png(i), "size": i}


class TinyPicturesByName(Tiny):
    FEATURES: ClassVar = {"image": IMAGE, "name": F.Text()}

    def example(self, i):
        return {"image": png(i), "name": f"picture {i}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("tfds"))
    for builder in (TinyCaptions, TinyLabels, TinyNested, TinySounds, TinyPictures):
        builder(data_dir=path, file_format="array_record").download_and_prepare()
    return path


@pytest.fixture
def source(folder):
    return lambda name, **options: Tfds(TfdsConfig(name=name, data_dir=folder, **options))


def shades(source: Tfds) -> list[int]:
    return [int(decode(bytes(source[i].image))[0, 0, 0]) for i in range(len(source))]


def test_several_captions_of_an_image(source):
    captions = source("tiny_captions")
    assert len(captions) == 10
    assert captions.name == "tiny_captions/1.0.0"
    assert captions.classes == ()
    assert sorted(shades(captions)) == list(range(10))
    for i, shade in enumerate(shades(captions)):
        sample = captions[i]
        assert sample.captions == (f"a {shade}", f"größe {shade}")
        assert sample.label is None
        assert sample.uid == captions.uid(i) == sample_uid("tiny_captions/1.0.0", f"train/{i}")
        assert captions.shard(i) == "tiny_captions-train.array_record-00000-of-00001"
    for outside in (-1, 10):
        with pytest.raises(IndexError, match=f"sample {outside} of 10"):
            captions[outside]


def test_image_comes_encoded_as_it_was(source):
    pictures = source("tiny_labels")
    assert pictures[3].image == png(shades(pictures)[3]).getvalue()


def test_slices_agree_with_the_split(source):
    whole, middle, both = (
        source("tiny_captions", split=split) for split in ("train", "train[2:6]", "test+train[80%:]")
    )
    assert [middle[i] for i in range(len(middle))] == [whole[i] for i in range(2, 6)]
    assert len(both) == 5
    assert [both.uid(i) for i in (3, 4)] == [whole.uid(8), whole.uid(9)]
    assert both.uid(0) == sample_uid("tiny_captions/1.0.0", "test/0")
    assert [both.shard(i).split(".")[0] for i in range(5)] == ["tiny_captions-test"] * 3 + ["tiny_captions-train"] * 2


def test_slices_over_several_files(tmp_path):
    config = tfds.download.DownloadConfig(num_shards=3)
    TinyLabels(data_dir=tmp_path, file_format="array_record").download_and_prepare(download_config=config)
    whole = Tfds(TfdsConfig(name="tiny_labels", data_dir=str(tmp_path)))
    part = Tfds(TfdsConfig(name="tiny_labels", data_dir=str(tmp_path), split="train[1:9]"))
    assert len({whole.shard(i) for i in range(10)}) == 3
    for i in range(8):
        assert part[i] == whole[i + 1]
        assert part.shard(i) == whole.shard(i + 1)


def test_empty_captions_are_bad_samples(source):
    test = source("tiny_captions", split="test")
    by_shade = {}
    for i in range(3):
        try:
            by_shade[test[i].captions] = i
        except BadSample as error:
            by_shade[error.reason] = by_shade.get(error.reason, 0) + 1
    assert by_shade["empty caption"] == 2


def test_labels_become_captions(source):
    labels = source("tiny_labels", templates=("a {}.", "{} {weird}"))
    assert labels.classes == ("tabby cat", "dog")
    for i, shade in enumerate(shades(labels)):
        name = labels.classes[shade % 2]
        assert labels[i].label == shade % 2
        assert labels[i].captions == (f"a {name}.", f"{name} {{weird}}")
    with pytest.raises(BadSample, match="no class with the label -1"):
        source("tiny_labels", split="test")[0]


def test_own_class_names(source):
    labels = source("tiny_labels", classes=("cat", "good_dog"))
    assert labels.classes == ("cat", "good dog")
    assert labels[0].captions in {("a photo of a cat.",), ("a photo of a good dog.",)}
    with pytest.raises(ValueError, match="has 2 classes in label; 3 names are given"):
        source("tiny_labels", classes=("a", "b", "c"))
    with pytest.raises(ValueError, match=r"template 'a photo': give texts with one \{\}"):
        TfdsConfig(name="x", templates=("a photo",))


def test_features_by_path(source):
    nested = source("tiny_nested", image_key="views/left", caption_key="alts", label_key="fine")
    assert sorted(shades(nested)) == list(range(10))
    assert (nested[0].captions, nested[0].label, nested.classes) == (("x", "y"), 2, ("c", "d", "e"))
    right = source("tiny_nested", image_key="views/right")
    assert shades(right) == [200] * 10
    assert right[0].captions[0].startswith("t ")
    assert right[0].label is None
    by_label = source("tiny_nested", image_key="views/left", label_key="coarse")
    assert by_label[0].captions == ("a photo of a b.",)
    assert source("tiny_captions", caption_key="image/filename")[0].captions[0].endswith(".png")


def test_features_that_cannot_be_told(source):
    with pytest.raises(ValueError, match=r"may be the image: views/left, views/right; set image_key"):
        source("tiny_nested")
    with pytest.raises(
        ValueError, match=r"no caption 'caption'; set caption_key to one of its features: .*alts: Text list"
    ):
        source("tiny_nested", image_key="views/left", caption_key="caption")
    with pytest.raises(ValueError, match=r"has no label 'title'; set label_key"):
        source("tiny_nested", image_key="views/left", label_key="title")
    with pytest.raises(ValueError, match=r"tiny_sounds/1.0.0 has no images, only audio: Tensor, text: Text"):
        source("tiny_sounds")
    with pytest.raises(
        ValueError, match=r"tiny_pictures/1.0.0 has neither captions nor labels, only image: Image, size: "
    ):
        source("tiny_pictures")


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"image": IMAGE, "file_name": F.Text(), "label": F.ClassLabel(num_classes=2)}, ("image", "", "label")),
        ({"image": IMAGE, "caption": F.Text(), "label": F.ClassLabel(num_classes=2)}, ("image", "caption", "label")),
        ({"photo": IMAGE, "what": F.Text()}, ("photo", "what", "")),
        ({"image": IMAGE, "caption": F.Text(), "title": F.Text()}, ("image", "caption", "")),
        ({"image": IMAGE, "mask": IMAGE, "text": np.str_}, ("image", "text", "")),
        (
            {"image": IMAGE, "label": F.ClassLabel(num_classes=2), "fine": F.ClassLabel(num_classes=2)},
            ("image", "", "label"),
        ),
        ({"image": IMAGE, "caption": F.Translation(["en", "de"])}, None),
        ({"image": IMAGE, "a": F.Text(), "b": F.Text()}, None),
        ({"frames": F.Sequence(IMAGE), "caption": F.Text()}, None),
    ],
)
def test_features_found_by_themselves(features, expected):
    given = F.FeaturesDict(features)
    if expected is None:
        with pytest.raises(ValueError, match=r"several features that may be the caption|has no images"):
            tfds_fields.find("x", given, image_key="", caption_key="", label_key="")
    else:
        fields = tfds_fields.find("x", given, image_key="", caption_key="", label_key="")
        assert tuple("/".join(path) for path in fields) == expected


def test_unknown_names_and_splits(source, tmp_path):
    with pytest.raises(
        ValueError, match=r"'tiny_caption' is neither in .* nor known to TFDS; the nearest are tiny_captions"
    ):
        source("tiny_caption")
    with pytest.raises(ValueError, match=r"'tiny_captions:9.9.9' is not in .*, where tiny_captions has 1.0.0"):
        source("tiny_captions:9.9.9")
    with pytest.raises(
        ValueError, match=r"'mnist' is not prepared in .*: set data_dir .*tfds build mnist --data_dir=.*array_r"
    ):
        source("mnist")
    with pytest.raises(ValueError, match=r"'tiny_captions' is not prepared in .*nowhere"):
        Tfds(TfdsConfig(name="tiny_captions", data_dir=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match=r"split 'trian': Unknown split 'trian'. Should be one of \['train', 'test'\]"):
        source("tiny_captions", split="trian")
    for split in ("train[5:", "train[20:30]", "train[3:3]"):
        with pytest.raises(ValueError, match=r"tiny_captions/1.0.0, split 'train"):
            source("tiny_captions", split=split)


def test_download_prepares_as_array_record(tmp_path):
    for _ in range(2):
        assert len(Tfds(TfdsConfig(name="tiny_pictures_by_name", data_dir=str(tmp_path), download=True))) == 10


def test_other_formats_are_refused(tmp_path):
    TinyPictures(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    described = tmp_path / "tiny_pictures" / "1.0.0" / "dataset_info.json"
    described.write_text(described.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(
        ValueError, match=r"is stored as tfrecord; random access needs array_record: run tfds build tiny"
    ):
        Tfds(TfdsConfig(name="tiny_pictures", data_dir=str(tmp_path)))


def test_damaged_record_is_a_bad_sample(source):
    captions = source("tiny_captions")
    captions._records = [b"\xff\xff no example"] * 10
    with pytest.raises(BadSample, match="record does not parse"):
        captions[0]


def test_pickle_and_threads(source):
    captions = source("tiny_captions")
    expected = [captions[i] for i in range(10)]
    again = pickle.loads(pickle.dumps(captions))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(again.__getitem__, list(range(10)) * 5)) == expected * 5
    assert len(pickle.dumps(captions)) < 20_000


def test_no_tensorflow(source):
    before = "tensorflow" in sys.modules
    source("tiny_captions")[0]
    assert ("tensorflow" in sys.modules) == before
