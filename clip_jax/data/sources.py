"""All kinds of sources by name: the one table a config's `kind` is looked up in."""

import dataclasses
from typing import Any

from clip_jax.data.digits import Digits, DigitsConfig
from clip_jax.data.glyphs import Glyphs, GlyphsConfig
from clip_jax.data.mixture import Mixture
from clip_jax.data.source import Source
from clip_jax.data.table import Table, TableConfig
from clip_jax.data.tfds import Tfds, TfdsConfig
from clip_jax.data.webdataset import WebDataset, WebDatasetConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weighted:
    """One part of a mixture: `weight` relative to the other parts'."""

    weight: float
    source: "SourceConfig"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """Several sources in one stream, each in proportion to its weight."""

    parts: tuple[Weighted, ...] = ()


SourceConfig = GlyphsConfig | WebDatasetConfig | TableConfig | TfdsConfig | DigitsConfig | MixtureConfig

# kind, as configs write it -> its dataclass
KINDS: dict[str, type] = {
    "glyphs": GlyphsConfig,
    "webdataset": WebDatasetConfig,
    "table": TableConfig,
    "tfds": TfdsConfig,
    "digits": DigitsConfig,
    "mixture": MixtureConfig,
}

_OPEN: dict[type, Any] = {
    GlyphsConfig: Glyphs,
    WebDatasetConfig: WebDataset,
    TableConfig: Table,
    TfdsConfig: Tfds,
    DigitsConfig: Digits,
}


def open_source(config: SourceConfig) -> Source:
    """The source a config describes. Raises ValueError or FileNotFoundError that says what is wrong with it."""
    if isinstance(config, MixtureConfig):
        return Mixture([(part.weight, open_source(part.source)) for part in config.parts])
    return _OPEN[type(config)](config)
