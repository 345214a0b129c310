"""The embedded data set: splits that keep their promises, captions that are true of the images, nothing left to chance."""

import concurrent.futures
import pickle
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest

from clip_jax.data import glyph_fonts, glyphs
from clip_jax.data.glyph_names import in_color, read, with_article
from clip_jax.data.glyphs import PALETTE, SPLITS, Glyphs, GlyphsConfig, colorings, held_out_concepts
from clip_jax.data.source import sample_uid


@pytest.fixture(scope="module")
def splits() -> dict[str, Glyphs]:
    return {split: Glyphs(GlyphsConfig(split=split, variants=1)) for split in SPLITS}


def drawings(source: Glyphs) -> set[str]:
    return {drawing.key for drawing in source._drawings}


def concepts(source: Glyphs) -> set[str]:
    return {drawing.concept for drawing in source._drawings}


def nearest_color(pixel: np.ndarray) -> str:
    return min(PALETTE, key=lambda name: np.abs(pixel.astype(int) - PALETTE[name]).sum())


# Splits


def test_each_split_has_enough_to_draw(splits):
    assert {split: len(source) > 300 for split, source in splits.items()} == dict.fromkeys(SPLITS, True)
    assert len(splits["train"]) > 11_000
    assert len(Glyphs(GlyphsConfig())) == 8 * len(splits["train"])


def test_no_drawing_is_in_two_splits(splits):
    keys = [key for source in splits.values() for key in drawings(source)]
    assert len(keys) == len(set(keys))


def test_held_out_concepts_are_nowhere_else(splits):
    fresh = concepts(splits["concepts"])
    for split in ("train", "validation", "designers"):
        assert not fresh & concepts(splits[split])
    words = {splits["train"].concept(i) for i in range(len(splits["train"]))}
    assert not words & set(held_out_concepts())
    assert len(held_out_concepts()) >= 500


def test_designers_are_another_hand_with_known_words(splits):
    assert {drawing.family for drawing in splits["designers"]._drawings} == {"remix"}
    assert concepts(splits["designers"]) <= concepts(splits["train"])
    for split in ("train", "validation", "concepts"):
        assert "remix" not in {drawing.family for drawing in splits[split]._drawings}


def test_validation_shows_known_concepts(splits):
    assert concepts(splits["validation"]) <= concepts(splits["train"])


def test_no_trademarks_and_one_name_for_each_outline(splits):
    names = {key for source in splits.values() for key in drawings(source)}
    for brand in ("material/github", "material/microsoft-word", "remix/apple-fill", "phosphor/figma-logo"):
        assert brand not in names
    assert "material/food-apple" in names
    assert len({(d.font, d.char) for s in splits.values() for d in s._drawings}) == len(names)


@pytest.mark.parametrize("split", ["designers", "concepts"])
def test_galleries_have_distinct_captions(split):
    gallery = Glyphs(GlyphsConfig(split=split, colors="black_on_white", limit=500))
    captions = {gallery[i].captions[0] for i in range(len(gallery))}
    assert len(gallery) == len(captions) == 500
    assert all(caption.endswith(" on white") and "black" in caption for caption in captions)
    smaller = Glyphs(GlyphsConfig(split=split, limit=20))
    assert [smaller.concept(i) for i in range(20)] == [gallery.concept(i) for i in range(20)]


# Captions


@pytest.mark.parametrize(
    ("family", "name", "words"),
    [
        ("material", "calendar-check-outline", "calendar with a check mark"),
        ("phosphor", "calendar-check-bold", "calendar with a check mark"),
        ("awesome", "house-circle-check", "house with a check mark in a circle"),
        ("awesome", "circle-check-regular", "check mark in a circle"),
        ("phosphor", "bell-simple-slash-thin", "bell crossed out"),
        ("material", "folder-lock-open", "folder with an open lock"),
        ("material", "account-multiple-plus", "users with a plus sign"),
        ("material", "alpha-k-box-multiple", "letter K in stacked squares"),
        ("material", "arrow-up-down-bold", "bold arrow pointing up and down"),
        ("material", "numeric-10-circle", "number ten in a circle"),
        ("material", "food-apple", "apple"),
        ("remix", "cake-3-line", "cake"),
        ("remix", "file-settings-fill", "file with a gear"),
        ("material", "file-settings", "file with three dots below"),
        ("awesome", "arrow-right-to-bracket", "login symbol"),
        ("material", "bus-electric", "electric bus"),
        ("material", "usb-port", "USB port"),
    ],
)
def test_names_are_read(family, name, words):
    assert read(family, name).words == words


def test_word_order_makes_no_new_concept():
    assert read("material", "arrow-left-right-bold").concept == read("material", "arrow-right-left-bold").concept
    assert read("material", "calendar-plus").concept == read("phosphor", "calendar-plus-fill").concept


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("bell", "a bell"),
        ("umbrella", "an umbrella"),
        ("unicorn", "a unicorn"),
        ("user with an X", "a user with an X"),
        ("X in a circle", "an X in a circle"),
        ("SD card", "an SD card"),
        ("euro sign", "a euro sign"),
        ("audio file", "an audio file"),
        ("hourglass", "an hourglass"),
        ("scissors", "scissors"),
        ("compass", "a compass"),
        ("three dots in a row", "three dots in a row"),
        ("bus stop", "a bus stop"),
        ("text", "text"),
    ],
)
def test_articles(words, said):
    assert with_article(words) == said


def test_a_color_stands_behind_a_number():
    assert in_color("three dots in a row", "red") == "three red dots in a row"
    assert in_color("bell", "red") == "red bell"


def test_captions_are_many_and_name_the_colors(splits):
    train = Glyphs(GlyphsConfig())
    for i in range(0, len(train), 997):
        sample, (color, background) = train[i], train.colors(i)
        assert 4 <= len(sample.captions) <= 8
        assert len(set(sample.captions)) == len(sample.captions)
        assert sample.label is None
        words = set(" ".join(sample.captions).replace(",", "").split())
        assert words & set(PALETTE) == {color, background}
        assert sample.captions[0].endswith(f" on {background}")


@pytest.mark.parametrize("split", list(SPLITS))
def test_images_show_the_colors_they_are_said_to_have(splits, split):
    source = splits[split]
    for i in range(0, len(source), max(1, len(source) // 150)):
        image, (color, background) = source[i].image, source.colors(i)
        assert image.shape == (64, 64, 3)
        assert image.dtype == np.uint8
        border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        assert (border == PALETTE[background]).all(), source._drawings[i]  # nothing is cut off
        distance = np.abs(image.astype(int) - PALETTE[background]).sum(-1)
        ink = np.argwhere(distance > 60)
        assert (np.ptp(ink, axis=0) + 1).max() >= 16  # and nothing is too small to see
        assert nearest_color(image[np.unravel_index(distance.argmax(), distance.shape)]) == color
        assert nearest_color(image.reshape(-1, 3)[0]) == background


def test_pairs_of_colors_can_be_told_apart():
    pairs = colorings()
    assert ("yellow", "white") not in pairs
    assert {a for a, _ in pairs} == {b for _, b in pairs} == set(PALETTE)
    source = Glyphs(GlyphsConfig(variants=len(pairs)))
    assert {source.colors(i) for i in range(len(pairs))} == set(pairs)


@pytest.mark.parametrize("size", [8, 32, 224])
def test_sizes(size):
    source = Glyphs(GlyphsConfig(size=size, variants=1))
    for i in range(0, len(source), 1500):
        image = source[i].image
        assert image.shape == (size, size, 3)
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 1


# Determinism


GOLDEN = {  # (split, index): uid, first caption, mean colour, box of the ink (left, top, right, bottom)
    ("train", 0): (
        0xD304D8B7E8195CF9,
        "purple letters A and B on white",
        (231.0, 220.0, 237.0),
        (16, 17, 56, 57),
    ),
    ("train", 40000): (
        0xD35BB7B3D45916AF,
        "an orange paper plane with a clock on brown",
        (130.0, 75.0, 30.0),
        (19, 20, 56, 54),
    ),
    ("train", 77777): (
        0xF9D038853E7D97A2,
        "a purple ID card on pink",
        (216.0, 130.0, 186.0),
        (7, 6, 52, 43),
    ),
    ("train", 92000): (
        0x57D9CA05FD38A9E3,
        "a purple X all on yellow",
        (227.0, 188.0, 61.0),
        (13, 11, 54, 52),
    ),
    ("train", 95000): (
        0x32D9E381428CE862,
        "a yellow car on purple",
        (168.0, 109.0, 115.0),
        (3, 13, 59, 60),
    ),
    ("validation", 1000): (
        0x368D7234EB9C20C5,
        "a purple paw on gray",
        (144.0, 129.0, 152.0),
        (16, 12, 58, 49),
    ),
    ("designers", 5000): (
        0xC00E7385DF029B27,
        "a pink gift box on brown",
        (156.0, 96.0, 84.0),
        (11, 7, 55, 49),
    ),
    ("concepts", 3000): (
        0x726346A940883AB2,
        "an orange number six in stacked squares on brown",
        (153.0, 86.0, 31.0),
        (7, 7, 49, 49),
    ),
}


@pytest.mark.parametrize(("split", "index"), list(GOLDEN))
def test_golden_samples(split, index):
    uid, caption, mean, box = GOLDEN[split, index]
    source = Glyphs(GlyphsConfig(split=split))
    sample = source[index]
    assert (sample.uid, sample.captions[0]) == (uid, caption)
    assert source.uid(index) == sample.uid
    np.testing.assert_allclose(sample.image.mean((0, 1)), mean, atol=3)  # Pillow's versions round differently
    distance = np.abs(sample.image.astype(int) - PALETTE[source.colors(index)[1]]).sum(-1)
    ys, xs = np.nonzero(distance > 30)
    np.testing.assert_allclose((xs.min(), ys.min(), xs.max(), ys.max()), box, atol=1)


def test_the_uid_names_the_drawing_and_its_colors_only():
    key = "phosphor/bell-bold"
    for config in (GlyphsConfig(variants=2), GlyphsConfig(variants=2, size=32)):
        source = Glyphs(config)
        at = 2 * [drawing.key for drawing in source._drawings].index(key)
        color, background = source.colors(at)
        assert source.uid(at) == sample_uid("glyphs", f"{key}/{color}/{background}")


def test_uids_are_distinct():
    source = Glyphs(GlyphsConfig())
    assert len({source.uid(i) for i in range(len(source))}) == len(source)


def test_another_process_draws_the_same():
    source = Glyphs(GlyphsConfig(split="validation"))
    code = (
        "import sys, pickle, zlib; source = pickle.load(sys.stdin.buffer)\n"
        "for i in range(0, 400, 40): s = source[i]; print(zlib.crc32(s.image.tobytes()), s.uid, *s.captions)"
    )
    run = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(source), capture_output=True, check=True)
    samples = [source[i] for i in range(0, 400, 40)]
    said = [" ".join(map(str, (zlib.crc32(s.image.tobytes()), s.uid, *s.captions))) for s in samples]
    assert run.stdout.decode().splitlines() == said


def test_a_pickle_is_small_and_quick_to_read():
    source = Glyphs(GlyphsConfig())
    data = pickle.dumps(source)
    seconds = []
    for _ in range(3):  # the quickest, for other work on the machine slows each
        start = time.process_time()
        copy = pickle.loads(data)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.5
    assert len(data) < 4_000_000
    assert len(copy) == len(source)
    np.testing.assert_array_equal(copy[7].image, source[7].image)
    assert copy[7].captions == source[7].captions


def test_threads_draw_what_one_thread_draws():
    source = Glyphs(GlyphsConfig(variants=1))
    indices = list(range(0, len(source), len(source) // 160))
    alone = [source[i].image for i in indices]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda i: [source[j].image for j in indices[i::8] + indices[: i + 1]], range(8)))
    for i, images in enumerate(together):
        for image, expected in zip(images, alone[i::8] + alone[: i + 1], strict=True):
            np.testing.assert_array_equal(image, expected)


# The protocol and its errors


def test_it_is_a_source():
    source = Glyphs(GlyphsConfig())
    assert (source.name, source.classes) == ("glyphs", ())
    assert source.shard(0).startswith("materialdesignicons")
    assert source.concept(0) in source[0].captions[1]
    for index in (-1, len(source)):
        with pytest.raises(IndexError, match=f"sample {index} of {len(source)}"):
            source[index]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"split": "trian"}, "'trian'; allowed are train, validation, designers, concepts, nearest 'train'"),
        ({"colors": "black"}, "'black'; allowed are palette, black_on_white, nearest 'black_on_white'"),
        ({"size": 7}, "7 pixels .* 8 or more"),
        ({"variants": 0}, "0 variants .* use 1 to"),
        ({"variants": 999}, "999 variants .* use 1 to"),
        ({"limit": -1}, "limit -1; use 0 for all"),
    ],
)
def test_configs_that_cannot_be(given, message):
    with pytest.raises(ValueError, match=message):
        GlyphsConfig(**given)


def test_a_gallery_larger_than_the_split(splits):
    there = len(concepts(splits["concepts"]))
    assert len(Glyphs(GlyphsConfig(split="concepts", limit=there))) == there
    with pytest.raises(ValueError, match=rf"{there + 1} concepts; the split concepts has {there}"):
        Glyphs(GlyphsConfig(split="concepts", limit=there + 1))


@pytest.fixture
def fresh_caches():
    cached = (glyph_fonts.fonts_folder, glyph_fonts.drawings, glyphs._split)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@pytest.mark.usefixtures("fresh_caches")
def test_without_the_wheel(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install qtawesome"):
        Glyphs(GlyphsConfig())


@pytest.mark.usefixtures("fresh_caches")
def test_a_wheel_without_fonts(monkeypatch, tmp_path):
    monkeypatch.setattr(glyph_fonts, "fonts_folder", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no font materialdesignicons.* pip install qtawesome"):
        Glyphs(GlyphsConfig())


def test_qt_is_not_imported():
    code = "import sys; from clip_jax.data.glyphs import *; Glyphs(GlyphsConfig())[0]; assert 'qtawesome' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_last_texts_stand_for_synthetic_captions():
    plain, parted = Glyphs(GlyphsConfig(variants=1)), Glyphs(GlyphsConfig(variants=1, synthetic=2))
    for index in range(0, len(plain), 500):
        whole, sample = plain[index], parted[index]
        assert (whole.synthetic, len(sample.synthetic), sample.uid) == ((), 2, whole.uid)
        assert sample.captions + sample.synthetic == whole.captions
    assert min(len(Glyphs(GlyphsConfig(variants=1, synthetic=5))[i].captions) for i in range(0, len(plain), 50)) == 1
    for wrong in (-1, 6):
        with pytest.raises(ValueError, match=f"{wrong} synthetic captions of at least 6 texts; use 0 to 5"):
            GlyphsConfig(synthetic=wrong)
