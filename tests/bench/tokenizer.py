"""How fast are captions tokenised, on one core?"""

import itertools

from clip_jax.data.glyphs import Glyphs, GlyphsConfig
from clip_jax.tokenizer import Tokenizer
from tests.bench.row import Row, rate


def rows() -> list[Row]:
    """4,096 captions of the embedded drawings; others in each repetition."""
    source, tokenizer = Glyphs(GlyphsConfig(variants=1)), Tokenizer()
    batches = itertools.cycle([[source[i].captions[i % 3] for i in range(start, start + 4096)] for start in (0, 4096)])
    return [rate("tokenizer, 4,096 captions", "captions/s", 4096, lambda: tokenizer(next(batches)))]
