"""Colour words in captions: which one a caption holds, the caption with another in its place, and queries made of it."""

import dataclasses
import re

from clip_jax.data.glyph_names import with_article
from clip_jax.data.glyphs import PALETTE

COLORS = tuple(PALETTE)  # the eleven basic terms (Berlin and Kay 1969)

_WORD = re.compile(rf"\b(?:{'|'.join(COLORS)}|grey)\b", re.IGNORECASE)
_ARTICLE = re.compile(r"\b(a)n?(\s+)$", re.IGNORECASE)
_NOUN = 3  # words at most
_END = re.compile(  # of the noun phrase behind a colour
    r"[^\w\s'-]|\b(?:a|above|across|against|along|an|and|are|around|as|at|be|before|behind|beside|between|but|by|for|from|has|have"
    r"|her|his|in|inside|into|is|it|its|near|next|of|off|on|onto|or|over|that|the|their|through|to|towards|under|up|was|were"
    r"|where|which|while|who|with|without)\b",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Told:
    """A caption around its only colour word. color: one of COLORS. word: as it is written."""

    before: str
    word: str
    after: str
    color: str

    def saying(self, color: str) -> str:
        """The caption itself for its own colour; else with another, and with the "a" or "an" which that takes."""
        if color == self.color:
            return self.before + self.word + self.after
        article = "n" if color.startswith("o") else ""
        before = _ARTICLE.sub(rf"\g<1>{article}\g<2>", self.before)
        return before + (color.capitalize() if self.word[0].isupper() else color) + self.after

    @property
    def noun(self) -> str:
        """What has the colour: up to three words behind it, before punctuation and words such as "on"; "" for none."""
        return " ".join(_END.split(self.after)[0].lower().split()[:_NOUN])


def told(caption: str) -> Told | None:
    """The one colour word of a caption; None for none or several.

    A word counts as it is written: in "an orange on a plate" the fruit is taken for a colour.
    """
    found = list(_WORD.finditer(caption))
    if len(found) != 1:
        return None
    word, start, end = found[0][0], found[0].start(), found[0].end()
    color = "gray" if word.lower() == "grey" else word.lower()
    return Told(before=caption[:start], word=word, after=caption[end:], color=color)


def query(noun: str, color: str = "") -> str:
    """ "an orange bell", "a bell", "red bells"."""
    return with_article(f"{color} {noun}" if color else noun, noun)
