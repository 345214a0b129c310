"""ARO's order of words: the orders by hand, precision at 1 by hand, the stored file, and what is refused."""

import json
import sys

import numpy as np
import pytest

from clip_jax.data.glyphs import GlyphsConfig
from clip_jax.evals import order as protocol
from clip_jax.evals.order import ORDER_FIGURES, Order, OrderConfig
from clip_jax.evals.reorder import ORDERS, plain_words, reordered, tagged
from tests.evals.memory import FixedEncoder, Memory, embedded

TAGS = {
    "the": "DT",
    "a": "DT",
    "grey": "JJ",
    "small": "JJ",
    "dog": "NN",
    "cats": "NNS",
    "and": "CC",
    "chases": "VBZ",
    "two": "CD",
}
CAPTION = "The grey dog chases the two small cats."
BLUE = np.full((4, 4, 3), 9, np.uint8)


def tags(caption):
    return [TAGS.get(word, "NN") for word in plain_words(caption)]


def test_words_are_plain():
    assert plain_words('A "dog" (small): it\'s #1, really!') == ["a", "dog", "small", "it's", "1,", "really"]


def test_each_order_moves_what_it_should():
    own, others = reordered(CAPTION, tags(CAPTION), 0)
    assert own == "the grey dog chases the two small cats"
    words, found = own.split(), {name: other.split() for name, other in zip(ORDERS, others, strict=True)}
    assert all(sorted(one) == sorted(words) and one != words for one in found.values())
    content = [i for i, word in enumerate(words) if word in ("grey", "dog", "small", "cats")]
    rest = [i for i in range(len(words)) if i not in content]
    assert [found["nouns_and_adjectives"][i] for i in rest] == [words[i] for i in rest]
    assert {found["nouns_and_adjectives"][i] for i in (1, 6)} == {"grey", "small"}  # each stays what it is
    assert [found["all_others"][i] for i in content] == [words[i] for i in content]
    threes = [words[0:3], words[3:6], words[6:]]
    at = [found["trigrams"].index(part[-1]) - len(part) + 1 for part in threes]
    assert [found["trigrams"][i : i + len(part)] for i, part in zip(at, threes, strict=True)] == threes
    inside = found["within_trigrams"]
    assert [sorted(one) for one in (inside[0:3], inside[3:6], inside[6:])] == [sorted(one) for one in threes]


def test_orders_are_of_their_seed_and_none_is_invented():
    assert reordered(CAPTION, tags(CAPTION), 3) == reordered(CAPTION, tags(CAPTION), 3)
    assert reordered(CAPTION, tags(CAPTION), 3) != reordered(CAPTION, tags(CAPTION), 4)
    assert reordered("Dog!", ["NN"], 0) == ("dog", [None] * 4)
    assert reordered("dog dog", ["NN", "NN"], 0) == ("dog dog", [None] * 4)
    assert reordered("the dog", ["DT", "NN"], 0) == ("the dog", [None, None, None, "dog the"])


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """Opens the protocol over captions, tagged by a table."""
    told = []

    def tagger(captions, model):
        told.append(model)
        return "a table", [tags(one) for one in captions]

    monkeypatch.setattr(protocol, "tagged", tagger)

    def of(*samples, **settings):
        entries = [one if isinstance(one, str) else (BLUE, one, None) for one in samples]
        monkeypatch.setattr(protocol, "open_source", lambda config: Memory(entries))
        return Order(OrderConfig(**({"stored": str(tmp_path / "deep" / "order.json")} | settings)))

    of.told = told
    return of


def test_precision_by_hand(opened):
    evaluation = opened((CAPTION, "a dog"), "broken", ("dog", "The grey cats."))
    source = evaluation._source
    assert [len(source[i].captions) for i in (0, 2)] == [10, 10]
    right, wrong = [1, 0], [0, 1]
    rows = [
        *[(0, text, right if n == 0 else wrong) for n, text in enumerate(source[0].captions[:5])],  # liked best
        *[(0, text, right) for text in source[0].captions[5:]],  # all alike, which is no success
        *[(1, text, right) for text in source[2].captions[:5]],  # of one word: not asked
        *[(1, text, right if n < 4 else wrong) for n, text in enumerate(source[2].captions[5:])],
    ]
    outcome = evaluation(FixedEncoder(embedded([right, right], rows, bad_count=1)))
    assert outcome.counts == {"images": 2, "captions": 3, "unreadable": 1}
    figures = {name: figure.value for name, figure in outcome.figures.items()}
    # "a dog" has its words swapped within the trigram alone; of "the grey cats" so, too, as one trigram.
    assert figures == {
        "precision_at_1": pytest.approx(2 / 3),
        "nouns_and_adjectives": 1,
        "all_others": 1,
        "trigrams": 1,
        "within_trigrams": pytest.approx(2 / 3),
    }
    assert outcome.figures["precision_at_1"].chance == pytest.approx((1 / 5 + 1 / 2 + 1 / 2) / 3)
    assert outcome.figures["trigrams"].chance == 1 / 2


def test_orders_are_stored_once(opened, tmp_path):
    file = tmp_path / "deep" / "order.json"
    first = opened((CAPTION,))._source[0].captions
    content = json.loads(file.read_text())
    assert (content["seed"], content["tagger"], content["orders"]) == (0, "a table", list(ORDERS))
    assert opened((CAPTION,))._source[0].captions == first
    assert opened.told == ["en_core_web_sm"]
    content["captions"][CAPTION][1][0] = "changed"
    file.write_text(json.dumps(content))
    assert opened((CAPTION,))._source[0].captions[1] == "changed"
    with pytest.raises(ValueError, match=r"lacks 1 of 2 captions of memory, first 'A cat'"):
        opened((CAPTION, "A cat"))
    assert len(opened((CAPTION,), ("A cat",), limit=1)._source) == 2  # of which one is asked
    with pytest.raises(ValueError, match=r"of seed 0; expected .* of 7: set `seed`"):
        opened((CAPTION,), seed=7)
    for damaged in ("{", "[]", '{"seed": 0, "orders": [], "captions": {"a": ["a", ["b"]]}}'):
        file.write_text(damaged)
        with pytest.raises(ValueError, match=r"is damaged .*delete it"):
            opened((CAPTION,))


def test_what_cannot_be_asked_is_refused(opened, tmp_path):
    with pytest.raises(ValueError, match="give a seed from 0"):
        OrderConfig(seed=-1)
    evaluation = opened(("dog",))
    alike = embedded([[1, 0]], [(0, text, [1, 0]) for text in evaluation._source[0].captions])
    with pytest.raises(ValueError, match="no image can be read that has a caption of more than one order"):
        evaluation(FixedEncoder(alike))


def test_without_spacy_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(FileNotFoundError, match=r"o\.json is not there, and .*pip install spacy, then python -m spacy"):
        Order(OrderConfig(source=GlyphsConfig(split="designers", limit=3), stored=str(tmp_path / "o.json")))


def test_spacy_tags_our_words(tmp_path):
    """With a model made of rules; en_core_web_sm itself is fetched by who uses it."""
    spacy = pytest.importorskip("spacy")
    model = spacy.blank("en")
    rules = model.add_pipe("attribute_ruler")
    for word, tag in TAGS.items():
        rules.add(patterns=[[{"LOWER": word}]], attrs={"TAG": tag})
    model.to_disk(tmp_path / "rules")
    name, found = tagged([CAPTION, "two cats (small)"], str(tmp_path / "rules"))
    assert name.startswith(f"spaCy {spacy.__version__}, en_")
    assert found == [tags(CAPTION), ["CD", "NNS", "JJ"]]
    with pytest.raises(FileNotFoundError, match="python -m spacy download nothing_of_the_name"):
        tagged(["a"], "nothing_of_the_name")


def test_figures_are_named_beforehand():
    assert ORDER_FIGURES == ("precision_at_1", "nouns_and_adjectives", "all_others", "trigrams", "within_trigrams")
