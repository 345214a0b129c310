"""The vocabulary of icon names, read from assets/icon_words.txt, where each section says what it lists."""

import dataclasses
import functools
import importlib.resources
import re
from typing import Any

# Sections of `words: part part ...`, and sections that list parts.
_TABLES = ("whole", "parts", "after", "before", "numbers")
_SETS = (
    *("compounds", "reversed", "actions", "silent", "leading", "brands", "not_brands"),
    *("upper", "mass", "unsaid", "pointers"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The sections of icon_words.txt. Tables map a part of a name, or "family:part", to what is said for it."""

    whole: dict[str, str]
    parts: dict[str, str]
    after: dict[str, str]
    before: dict[str, str]
    openings: tuple[tuple[re.Pattern[str], str], ...]
    badges: frozenset[str]
    compounds: frozenset[str]
    reversed: frozenset[str]
    actions: frozenset[str]
    silent: frozenset[str]
    leading: frozenset[str]
    brands: frozenset[str]
    not_brands: frozenset[str]
    upper: frozenset[str]
    mass: frozenset[str]
    unsaid: frozenset[str]
    pointers: frozenset[str]
    numbers: dict[str, str]

    @functools.cached_property
    def terms(self) -> frozenset[str]:
        """All parts of several tokens or one that the vocabulary knows."""
        return frozenset().union(self.parts, self.after, self.before, self.compounds)


@functools.cache
def vocabulary() -> Vocabulary:
    """The one vocabulary, parsed on first use."""
    text = (importlib.resources.files("clip_jax") / "assets" / "icon_words.txt").read_text("utf-8")
    sections: dict[str, list[str]] = {}
    rows: list[str] = []
    for line in text.splitlines():
        if line.startswith("["):
            rows = sections.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            rows.append(line)
    openings = (row.partition(": ") for row in sections["openings"])
    fields: dict[str, Any] = {name: frozenset(" ".join(sections[name]).split()) for name in _SETS}
    fields |= {name: _table(name, sections[name]) for name in _TABLES}
    fields["badges"] = frozenset(" | ".join(sections["badges"]).split(" | "))  # words, not parts: they hold spaces
    fields["openings"] = tuple((re.compile(pattern + r"(?=-|$)"), words) for words, _, pattern in openings)
    return Vocabulary(**fields)


def _table(section: str, rows: list[str]) -> dict[str, str]:
    """Rows of `words: part part ...` -> {part: words}."""
    table: dict[str, str] = {}
    for words, _, parts in (row.partition(": ") for row in rows):
        for part in parts.split():
            assert part not in table, f"icon_words.txt [{section}] says both {table[part]!r} and {words!r} for {part!r}"
            table[part] = words
    return table
