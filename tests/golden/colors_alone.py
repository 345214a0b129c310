"""How far colours alone carry in a gallery of the quickstart: `python -m tests.golden.colors_alone`.

Prints the expected text-to-image R@1, R@5 and R@10 of a model that knows the two colours of a picture and nothing else.
"""

from collections import Counter

from clip_jax.data.glyphs import Glyphs, GlyphsConfig


def expected(split: str, limit: int, k: int) -> float:
    """Mean over the gallery's captions of k / (pictures in the same two colours), at most 1."""
    gallery = Glyphs(GlyphsConfig(split=split, limit=limit))
    colors = [gallery.colors(index) for index in range(len(gallery))]
    alike = Counter(colors)
    return sum(min(1.0, k / alike[pair]) for pair in colors) / len(colors)


if __name__ == "__main__":
    for split in ("designers", "concepts"):
        print(split, "  ".join(f"R@{k} {100 * expected(split, 500, k):.1f}%" for k in (1, 5, 10)))
