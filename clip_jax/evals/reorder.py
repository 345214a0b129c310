"""A caption's words in other orders, which keep its words and change what it says. Yuksekgonul et al. 2023, appendix A."""

import importlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

Words = list[str]
_TRIES = 20  # draws, until one differs
_CONTENT = ("NN", "NNS", "NNP", "NNPS"), ("JJ", "JJR", "JJS")  # Penn Treebank's nouns, and its adjectives


def plain_words(caption: str) -> Words:
    """In lower case, without the punctuation that would tell where a sentence ends."""
    return re.sub(r"[.!\"()*#:;~]", " ", caption.lower()).split()


def reordered(caption: str, tags: Sequence[str], seed: int) -> tuple[str, list[str | None]]:
    """The caption's plain words, and these in the order that each of ORDERS gives, None where none differs.

    tags: of each of its plain words. The same caption and seed give the same orders on every machine.
    """
    words = plain_words(caption)
    rng = np.random.default_rng([seed, *" ".join(words).encode("utf-8", "replace")])
    found: list[str | None] = []
    for order in ORDERS.values():
        drawn = (order(words, tags, rng) for _ in range(_TRIES))
        other = next((one for one in drawn if one != words), None)
        found.append(None if other is None else " ".join(other))
    return " ".join(words), found


def _nouns_and_adjectives(words: Words, tags: Sequence[str], rng: np.random.Generator) -> Words:
    for kind in _CONTENT:
        words = _shuffled_at(words, [i for i, tag in enumerate(tags) if tag in kind], rng)
    return words


def _all_others(words: Words, tags: Sequence[str], rng: np.random.Generator) -> Words:
    return _shuffled_at(words, [i for i, tag in enumerate(tags) if not any(tag in kind for kind in _CONTENT)], rng)


def _trigrams(words: Words, tags: Sequence[str], rng: np.random.Generator) -> Words:
    parts = _threes(words)
    return [word for i in rng.permutation(len(parts)) for word in parts[i]]


def _within_trigrams(words: Words, tags: Sequence[str], rng: np.random.Generator) -> Words:
    return [part[i] for part in _threes(words) for i in rng.permutation(len(part))]


ORDERS: dict[str, Callable[[Words, Sequence[str], np.random.Generator], Words]] = {
    "nouns_and_adjectives": _nouns_and_adjectives,  # nouns among themselves, and adjectives
    "all_others": _all_others,
    "trigrams": _trigrams,  # as they are, in another order
    "within_trigrams": _within_trigrams,
}


def _shuffled_at(words: Words, places: Sequence[int], rng: np.random.Generator) -> Words:
    found = list(words)
    for place, other in zip(places, rng.permutation(len(places)), strict=True):
        found[place] = words[places[other]]
    return found


def _threes(words: Words) -> list[Words]:
    return [words[start : start + 3] for start in range(0, len(words), 3)]


def tagged(captions: Iterable[str], model: str) -> tuple[str, list[list[str]]]:
    """The tagger's name and version, and a tag for each of the captions' plain words, by spaCy's `model`.

    Raises FileNotFoundError that says what is to be installed.
    """
    try:
        spacy: Any = importlib.import_module("spacy")
        tagger = spacy.load(model, exclude=["ner", "lemmatizer"])
    except (ModuleNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"captions are tagged by spaCy's {model}: pip install spacy, then python -m spacy download {model}"
        ) from error
    documents = [spacy.tokens.Doc(tagger.vocab, words=plain_words(one)) for one in captions]
    found = [[word.tag_ for word in document] for document in tagger.pipe(documents)]
    about = tagger.meta
    return f"spaCy {spacy.__version__}, {about['lang']}_{about['name']} {about['version']}", found
