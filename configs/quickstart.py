"""The embedded drawings on two cores in minutes: what `make quickstart` trains."""

from ml_collections import ConfigDict

from clip_jax.data.digits import DigitsConfig
from clip_jax.data.glyphs import GlyphsConfig
from clip_jax.data.sources import MixtureConfig, Weighted
from clip_jax.evals.colors import ColorsConfig
from clip_jax.evals.retrieval import RetrievalConfig
from clip_jax.evals.showcase import ShowcaseConfig
from clip_jax.evals.zero_shot import ZeroShotConfig
from configs.base import get_config as base
from configs.base import part

QUERIES = (
    *("a red heart on white", "a blue heart on white", "a green tree on white", "a yellow star on black"),
    *("a purple cloud", "an orange bell on white", "a camera", "an airplane", "a bicycle", "a house with a plus sign"),
    *("a black cat on white", "a folder in a circle"),
)


def glyphs(variants: int = 8) -> ConfigDict:
    """The drawings in `variants` colourings each, and as often in black on white, where only the shape tells."""
    colored, black = GlyphsConfig(variants=variants), GlyphsConfig(colors="black_on_white")
    return part(MixtureConfig(parts=(Weighted(weight=1, source=colored), Weighted(weight=1, source=black))))


def get_config(model: str = "tiny") -> ConfigDict:
    """`model`: an open_clip name."""
    config = base(model)
    config.model.running.scan = False  # larger program, faster on CPU
    config.steps = 500
    config.batch_size = 256
    config.source = glyphs()
    config.read.workers = 0
    config.optim.lr = 1.5e-3
    config.optim.warmup_steps = 50
    config.optim.weight_decay = 0.1
    config.optim.clip_norm = 1.0
    config.optim.ema_decay = 0.99
    config.checkpoint.every = 125
    config.eval_every = 250
    config.evals = {
        "validation": part(RetrievalConfig(source=GlyphsConfig(split="validation", limit=300), first_caption=True)),
        "other_designers": part(RetrievalConfig(source=GlyphsConfig(split="designers", limit=500), first_caption=True)),
        "held_out_concepts": part(
            RetrievalConfig(source=GlyphsConfig(split="concepts", limit=500), first_caption=True)
        ),
        "shapes_alone": part(
            RetrievalConfig(
                source=GlyphsConfig(split="designers", limit=500, colors="black_on_white"), first_caption=True
            )
        ),
        "digits": part(
            ZeroShotConfig(source=DigitsConfig(), templates=("the number {}", "a {}", "a black {} on white"))
        ),
        "colors": part(ColorsConfig(source=GlyphsConfig(split="designers", limit=500))),
        "gallery": part(ShowcaseConfig(source=GlyphsConfig(split="designers", variants=4), queries=QUERIES)),
    }
    return config
