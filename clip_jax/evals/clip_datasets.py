"""The CLIP paper's data sets that TFDS has: splits, prompts, readable class names, and the figure the paper reports of each.

Radford et al. 2021, table 9. Of its 27, TFDS lacks Birdsnap, FER2013, Country211, Kinetics700, Hateful Memes and Rendered SST2 as
sets of their own, and FGVC Aircraft, GTSRB and UCF101 in their full size; VOC 2007 (several labels an image, 11-point mAP), KITTI
Distance and CLEVR Counts (no label, but boxes and objects to make it of) are not measured here. Where TFDS's class names are
not OpenAI's, those that a text tower could not read are replaced, the others stay.
"""

import dataclasses
from typing import Literal

from clip_jax.data.tfds import TfdsConfig
from clip_jax.evals.linear_probe import LinearProbeConfig
from clip_jax.evals.zero_shot import ZeroShotConfig

IMAGENET_CLASSES = (
    "imagenet_classes.txt"  # in the folder of --data_dir: a name a line, in the order of the WordNet codes
)

# The seven templates that OpenAI found to do as well for ImageNet as all eighty together.
IMAGENET_TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
# OpenAI's prompts of each set, all of them.
_SMALL_PHOTOS = tuple(
    f"{start} {the} {size}{{}}."
    for the in ("a", "the")
    for start, size in (
        *(
            (f"a {kind}photo of", "")
            for kind in ("", "blurry ", "black and white ", "low contrast ", "high contrast ", "bad ", "good ")
        ),
        ("a photo of", "small "),
        ("a photo of", "big "),
    )
)
_OBJECTS = tuple(
    template.format(the)
    for the in ("a", "the")
    for template in (
        *(
            f"{start} {{}} {{{{}}}}."
            for start in (
                "a photo of",
                "a painting of",
                "a sculpture of",
                "a sketch of",
                "a tattoo of",
                "a rendition of",
                "art of",
                "graffiti of",
                "a drawing of",
                "a doodle of",
            )
        ),
        *(f"{{}} {kind} {{{{}}}}." for kind in ("plastic", "toy", "embroidered", "cartoon", "plushie", "origami")),
        "{} {{}} in a video game.",
    )
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipDataset:
    """name: in TFDS. fit, test: splits for the linear probe to fit on, and to measure both on. metric: the paper's.
    rename: (TFDS's class name, a readable one), where the former says nothing to a text tower."""

    name: str
    fit: str = "train"
    test: str = "test"
    metric: Literal["accuracy", "mean_per_class"] = "accuracy"
    templates: tuple[str, ...] = ("a photo of a {}.",)
    rename: tuple[tuple[str, str], ...] = ()


# Where a set has one split in TFDS (EuroSAT, RESISC45), parts of the paper's sizes are cut from it: not the same images.
CLIP_DATASETS: dict[str, ClipDataset] = {
    "food101": ClipDataset(name="food101", test="validation", templates=("a photo of {}, a type of food.",)),
    "cifar10": ClipDataset(name="cifar10", templates=_SMALL_PHOTOS),
    "cifar100": ClipDataset(
        name="cifar100", templates=_SMALL_PHOTOS, rename=(("cattle", "cow"), ("ray", "stingray"), ("tank", "army tank"))
    ),
    "sun397": ClipDataset(name="sun397/standard-part1-120k", templates=("a photo of a {}.", "a photo of the {}.")),
    "cars": ClipDataset(
        name="cars196",
        templates=(
            "a photo of a {}.",
            "a photo of the {}.",
            "a photo of my {}.",
            "i love my {}!",
            *(f"a photo of my {kind} {{}}." for kind in ("dirty", "clean", "new", "old")),
        ),
    ),
    "dtd": ClipDataset(
        name="dtd",
        fit="train+validation",
        templates=tuple(
            f"a photo of {a} {{}} {what}." for a in ("a", "the") for what in ("texture", "pattern", "thing", "object")
        ),
    ),
    "pets": ClipDataset(
        name="oxford_iiit_pet", metric="mean_per_class", templates=("a photo of a {}, a type of pet.",)
    ),
    "caltech101": ClipDataset(
        name="caltech101",
        metric="mean_per_class",
        templates=_OBJECTS,
        rename=(
            ("airplanes", "airplane"),
            ("background google", "background"),
            ("car side", "side of a car"),
            ("cougar body", "body of a cougar"),
            ("cougar face", "face of a cougar"),
            ("crocodile head", "head of a crocodile"),
            ("faces", "off-center face"),
            ("faces easy", "centered face"),
            ("flamingo head", "head of a flamingo"),
            ("garfield", "cartoon of Garfield"),
            ("hawksbill", "hawksbill sea turtle"),
            ("leopards", "leopard"),
            ("motorbikes", "motorbike"),
            ("snoopy", "cartoon of Snoopy"),
            ("yin yang", "yin and yang symbol"),
        ),
    ),
    "flowers102": ClipDataset(
        name="oxford_flowers102",
        fit="train+validation",
        metric="mean_per_class",
        templates=("a photo of a {}, a type of flower.",),
    ),
    "mnist": ClipDataset(name="mnist", templates=('a photo of the number: "{}".',)),
    "stl10": ClipDataset(name="stl10", templates=("a photo of a {}.", "a photo of the {}.")),
    "eurosat": ClipDataset(
        name="eurosat/rgb",
        fit="train[:10000]",
        test="train[22000:]",
        templates=tuple(f"a centered satellite photo of {the}{{}}." for the in ("", "a ", "the ")),
        rename=(
            ("AnnualCrop", "annual crop land"),
            ("HerbaceousVegetation", "brushland or shrubland"),
            ("Highway", "highway or road"),
            ("Industrial", "industrial buildings or commercial buildings"),
            ("Pasture", "pasture land"),
            ("PermanentCrop", "permanent crop land"),
            ("Residential", "residential buildings or homes or apartments"),
            ("SeaLake", "lake or sea"),
        ),
    ),
    "resisc45": ClipDataset(
        name="resisc45",
        fit="train[:3150]",
        test="train[6300:]",
        templates=tuple(
            f"{eye} {what} of {the}{{}}."
            for the in ("", "a ", "the ")
            for what in ("imagery", "photo", "view")
            for eye in ("satellite", "aerial")
        ),
    ),
    "pcam": ClipDataset(
        name="patch_camelyon",
        fit="train+validation",
        templates=("this is a photo of {}.",),
        rename=(("0", "lymph node"), ("1", "lymph node containing metastatic tumor tissue")),
    ),
    "imagenet": ClipDataset(name="imagenet2012", test="validation", templates=IMAGENET_TEMPLATES),
}


def zero_shot(name: str) -> ZeroShotConfig:
    """Of one of CLIP_DATASETS; ImageNet's names come from the file IMAGENET_CLASSES, as TFDS has WordNet codes."""
    one = CLIP_DATASETS[name]
    return ZeroShotConfig(
        source=TfdsConfig(name=one.name, split=one.test, label_key="label"),
        templates=one.templates,
        rename=one.rename,
        classes_file=IMAGENET_CLASSES if name == "imagenet" else "",
        metric=one.metric,
    )


def linear_probe(name: str) -> LinearProbeConfig:
    """The same set, fitted on its training split."""
    one = CLIP_DATASETS[name]
    fit, test = (TfdsConfig(name=one.name, split=split, label_key="label") for split in (one.fit, one.test))
    return LinearProbeConfig(source=fit, test=test, metric=one.metric)
