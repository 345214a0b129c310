"""Suites: what they hold, what is filled in, and what happens to data that are not here."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from clip_jax.data.digits import DigitsConfig
from clip_jax.data.tfds import TfdsConfig
from clip_jax.evals.clip_datasets import CLIP_DATASETS, IMAGENET_CLASSES, zero_shot
from clip_jax.evals.prompts import check_templates, readable
from clip_jax.evals.suite import figure_names
from clip_jax.evals.suites import SUITES, open_available, suite
from clip_jax.evals.zero_shot import ZeroShotConfig
from clip_jax.plain import from_dict, to_dict
from tests.evals.memory import FixedEncoder, embedded

LABELS = Path(tfds.__file__).parent / "image_classification"


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_is_made_of_configs_that_can_be_written_down(name):
    evals = suite(name, teacher="t", data_dir="d")
    assert evals
    for config in evals.values():
        assert from_dict(type(config), to_dict(config)) == config
        assert isinstance(figure_names(config), tuple)


def test_the_teacher_and_the_places_of_data_are_filled_in():
    offline = suite("offline", teacher="runs/t", data_dir="there")
    assert {offline[name].teacher for name in ("agreement", "colors")} == {"runs/t"}
    clip = suite("clip", data_dir="there")
    assert {config.source.data_dir for config in clip.values()} == {"there"}
    assert clip["imagenet"].classes_file == f"there/{IMAGENET_CLASSES}"
    probe = suite("clip_probe", data_dir="there")["mnist_probe"]
    assert (probe.source.data_dir, probe.test.data_dir) == ("there", "there")
    assert SUITES["clip"]["mnist"].source.data_dir == ""


def test_no_such_suite():
    with pytest.raises(
        ValueError,
        match=r"no suite 'clp'; there are offline, order, robustness, faces, clip, .*; did you mean 'clip'\?",
    ):
        suite("clp")


def test_what_is_not_here_is_named_with_what_to_run(tmp_path):
    configs = {"here": ZeroShotConfig(limit=2), "mnist": suite("clip", data_dir=str(tmp_path))["mnist"]}
    opened, skipped = open_available(configs, load=lambda source: FixedEncoder(embedded(np.eye(2))))
    assert list(opened) == ["here"]
    assert list(skipped) == ["mnist"]
    assert "tfds build mnist" in skipped["mnist"]
    assert str(tmp_path) in skipped["mnist"]
    del configs["here"]
    with pytest.raises(ValueError, match=r"no evaluation of the suite can be opened:\n  mnist: .* tfds build mnist"):
        open_available(configs, load=lambda source: FixedEncoder(embedded(np.eye(2))))


def test_the_papers_metric_of_each_set():
    mean = {name for name, one in CLIP_DATASETS.items() if one.metric == "mean_per_class"}
    assert mean == {"pets", "caltech101", "flowers102"}  # Radford et al. 2021, table 9, of those that are here
    assert zero_shot("pets").metric == "mean_per_class"
    for one in CLIP_DATASETS.values():
        check_templates(one.templates)
        assert len(set(one.templates)) == len(one.templates)


def test_prompts_are_openais_in_number():
    told = {
        "cifar10": 18,
        "cifar100": 18,
        "cars": 8,
        "dtd": 8,
        "caltech101": 34,
        "eurosat": 3,
        "resisc45": 18,
        "sun397": 2,
    }
    assert {name: len(CLIP_DATASETS[name].templates) for name in told} == told


def test_tfds_knows_the_sets():
    known = tfds.list_builders(with_community_datasets=False)
    assert {one.name.partition("/")[0] for one in CLIP_DATASETS.values()} <= set(known)


@pytest.mark.parametrize(
    ("name", "file"), [("caltech101", "caltech101_labels.txt"), ("food101", "food-101_classes.txt")]
)
def test_renamed_classes_are_tfds_own(name, file):
    own = {line.replace("_", " ") for line in (LABELS / file).read_text().split()}
    assert {old for old, _ in CLIP_DATASETS[name].rename} <= own


def test_names_of_sun_are_made_readable():
    assert readable("/a/airplane_cabin") == "airplane cabin"
    assert readable("/b/balcony/interior") == "interior balcony"
    assert readable("AC/DC") == "AC/DC"


def test_a_set_of_tfds_and_one_that_is_none():
    evals = suite("clip", data_dir="d")
    assert all(isinstance(config.source, TfdsConfig) for config in evals.values())
    assert not any(isinstance(config.source, TfdsConfig) for config in suite("offline").values())
    assert isinstance(suite("offline")["digits"].source, DigitsConfig)
