"""A small grammar that turns an icon's name into English: `calendar-check-outline` is "calendar with a check mark"."""

import dataclasses
import functools
import re

from clip_jax.data.glyph_words import vocabulary

# How each family marks the weight of a drawing at the end of its name -> how a caption may say it.
STYLES = {
    "material": {"outline": "drawn as an outline"},
    "awesome": {"regular": "drawn as an outline"},
    "phosphor": {
        "thin": "drawn in thin lines",
        "light": "drawn in light lines",
        "bold": "drawn in bold lines",
        "fill": "filled in",
    },
    "codicons": {"outline": "drawn as an outline", "filled": "filled in"},
    "elusive": {},
    "remix": {"line": "drawn as an outline", "fill": "filled in"},
}
_TURNS = {"up": "up", "down": "down", "left": "left", "right": "right", "top": "up", "bottom": "down"}
_SPOKEN_VOWEL = re.compile(
    r"a|e(?!u)|i|o(?!ne\b|nce)|u(?!n\b|ni(?!n)|se|sb|fo|-turn|ti|te)|8|11\b|18\b|hour|(?:x|xml|xor|xnor|sd|rss|hd|hdmi|led|nfc)\b"
)
_STACKED = {"in a square": "in stacked squares", "in a circle": "in stacked circles"}
_COUNTS = ("two", "three", "four", "six", "nine", "opposite")
_SINGULAR = re.compile(r"(?:ss|us|is|as|ics|lens|news|gps|ens)$")
_TAIL = re.compile(
    r" (?:with|in|on|of|pointing|showing|at|behind|crossed|turned|to|from|holding|by|leaving|going|being)\b"
    r"|(?<=^letters) "
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """What a name says. words: the thing, without article, colour or style. style: how it is drawn, or ""."""

    words: str
    style: str = ""

    @property
    def concept(self) -> str:
        """The thing regardless of word order, so that no rewording of it counts as another thing."""
        return " ".join(sorted({word.lower() for word in self.words.split()} - vocabulary().unsaid))


@dataclasses.dataclass(kw_only=True)
class _Noun:
    """One noun phrase while it is read."""

    noun: str
    before: list[str] = dataclasses.field(default_factory=list)
    turns: list[str] = dataclasses.field(default_factory=list)
    several: bool = False

    def __str__(self) -> str:
        noun = _plural(self.noun) if self.several else self.noun
        words = " ".join([*self.before, noun])
        if not self.turns:
            return words
        turns = " and ".join(dict.fromkeys(self.turns))
        if self.noun.endswith("pointing"):
            return f"{words} {turns}"
        if self.noun.split()[-1] in vocabulary().pointers or not {"left", "right"} >= set(self.turns):
            return f"{words} pointing {turns}"
        return f"{words} on the {turns}"


def is_plural(words: str) -> bool:
    """Whether the head of a noun phrase is a plural or a mass noun, which takes no "a"."""
    noun = _TAIL.split(words)[0].split()[-1].lower()
    if words.split()[0] in _COUNTS:
        return True
    return noun in vocabulary().mass or (noun.endswith("s") and len(noun) > 3 and not _SINGULAR.search(noun))


def with_article(words: str, noun: str = "") -> str:
    """`words` behind "a" or "an" as it is spoken; bare where they, or `noun` that stands in them, are a plural."""
    if is_plural(noun or words):
        return words
    return ("an " if _SPOKEN_VOWEL.match(words.lower()) else "a ") + words


def in_color(words: str, color: str) -> str:
    """The thing in a color, which stands behind a number: "red bell", "three red dots in a row"."""
    first, _, rest = words.partition(" ")
    return f"{first} {color} {rest}" if rest and first in _COUNTS else f"{color} {words}"


@functools.cache
def read(family: str, name: str) -> Reading:
    """What icon `name` of a designer's family says, e.g. ("phosphor", "bell-slash-bold") -> "bell crossed out"."""
    known = vocabulary()
    style = "drawn in lines" if family == "phosphor" else ""
    base, _, last = name.rpartition("-")
    if base and last in STYLES[family]:
        name, style = base, STYLES[family][last]
    if family == "remix" and f"remix:{name}" not in known.whole:  # cake-3 is a third drawing of a cake
        name = re.sub(r"^(?!number-|h-|signal-)(.*[a-z])-[2-9]\b", r"\1", name)
    if family == "elusive":
        name = name.removesuffix("-alt")
    name = re.sub(r"^(?:food|fruit)-(?!off|variant)", "", name)
    words = known.whole.get(f"{family}:{name}") or known.whole.get(name) or _phrase(family, name)
    words = re.sub(r"\b(letter|floor|size|axis) (\w)\b", lambda m: f"{m[1]} {m[2].upper()}", words)
    return Reading(words=" ".join(word.upper() if word in known.upper else word for word in words.split()), style=style)


def _phrase(family: str, name: str) -> str:
    known = vocabulary()
    head = ""
    for pattern, words in known.openings:
        if found := pattern.match(name):
            head, name = found.expand(words).replace("-", " "), name[found.end() :].strip("-")
            if "percent" not in head:
                head = re.sub(r"\b\d+\b", lambda m: known.numbers.get(m[0], m[0]), head)
            break
    atoms = _atoms(family, name)
    if family in ("awesome", "elusive") and len(atoms) > 1 and atoms[0][0] in ("circle", "square", "rectangle"):
        atoms = [*atoms[1:], atoms[0]]  # circle-check is a check mark in a circle
    if family == "awesome":  # bridge-circle-check: the mark stands in the circle, beside the bridge
        atoms = [*(("circled", "") if atom[0] == "circle" else atom for atom in atoms[:-1]), *atoms[-1:]]
    if not head and not atoms:
        return name
    if not head and atoms[0][0] in _TURNS:
        head = "arrow"
    if head:
        return _compose(head, "", atoms)
    raw, words = atoms[0]
    return _compose(f"letter {words}" if len(words) == 1 and words.islower() else words, raw, atoms[1:])


def _atoms(family: str, name: str) -> list[tuple[str, str]]:
    """The parts of a name as (raw, words): the longest ones the vocabulary knows, and other words one by one."""
    known = vocabulary()
    tokens, atoms = [t for t in name.split("-") if t], []
    while tokens:
        for n in range(min(4, len(tokens)), 0, -1):
            raw = "-".join(tokens[:n])
            own = f"{family}:{raw}"  # what this family alone means by it
            if own in known.parts:
                raw = own
            elif raw not in known.terms and n > 1:
                continue
            atoms.append((raw, known.parts.get(raw, raw.replace("-", " "))))
            tokens = tokens[n:]
            break
    return atoms


def _compose(head: str, raw_head: str, atoms: list[tuple[str, str]]) -> str:
    known = vocabulary()
    first = noun = _Noun(noun=head)
    pieces: list[tuple[str, _Noun | str]] = [("", noun)]
    leading, circled, last = "", False, ""
    for i, (raw, words) in enumerate(atoms):
        if leading:
            noun = _Noun(noun=words)
            pieces.append((leading, noun))
            leading = ""
        elif raw in known.leading and i + 1 < len(atoms):
            leading = raw
        elif raw in known.silent:
            continue
        elif raw in _TURNS:
            noun.turns.append(_TURNS[raw])
        elif raw == "multiple":
            first.several = True
        elif raw in ("off", "slash", "disabled"):
            last = " crossed out"
        elif raw == "circled":
            circled = True
        elif raw in known.after:
            pieces.append(("", known.after[raw]))
        elif raw in known.before:
            noun.before.append(known.before[raw])
        elif words in known.badges:
            noun = _Noun(noun=words)
            pieces.append(("with", noun))
        elif raw_head in known.reversed and noun is first:
            noun.noun = f"{words} {noun.noun}"
        else:
            noun.noun = f"{noun.noun} {words}"
    if raw_head in known.actions and not head.endswith(("symbol", "sign")):
        first.noun += " symbol"
    if first.several and any(str(piece) in _STACKED for _, piece in pieces):
        first.several = False  # alpha-a-box-multiple: the boxes are many, the letter is one
        pieces = [(link, _STACKED.get(piece, piece) if isinstance(piece, str) else piece) for link, piece in pieces]
    text = str(first)
    for link, piece in pieces[1:]:
        said = piece if isinstance(piece, str) else f"{link} {with_article(str(piece))}"
        if circled and link:
            said, circled = said + " in a circle", False
        if said.startswith("with ") and " with " in text:
            said = said.replace("with", "and", 1)
        text += " " + said
    return text + last


def _plural(noun: str) -> str:
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2] not in "aeiou" else noun + "s"
