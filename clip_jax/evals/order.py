"""ARO's order of words: a picture's caption among four others of the same words; the caption must be the likest.

Yuksekgonul et al. 2023, section 2 (COCO and Flickr order): precision at 1. Equal similarities are no success.
"""

import dataclasses
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
import numpy as np

from clip_jax.data.glyphs import GlyphsConfig
from clip_jax.data.source import BadSample, Sample, Source
from clip_jax.data.sources import SourceConfig, open_source
from clip_jax.durable import write_durably
from clip_jax.evals.embed import Encoder, check_readable
from clip_jax.evals.protocol import Figure, Outcome
from clip_jax.evals.reorder import ORDERS, reordered, tagged

ORDER_FIGURES = ("precision_at_1", *ORDERS)
_log = logging.getLogger(__name__)
Orders = Mapping[str, tuple[str, list[str | None]]]  # caption -> as `reordered`


@dataclasses.dataclass(frozen=True, kw_only=True)
class OrderConfig:
    """source: pictures with captions, each of which is asked. limit: of its first samples only, 0 for all. stored: a file of
    the captions in their other orders; where it is not there it is written, which takes spaCy and its model `tagger`, so that
    later evaluations, here and elsewhere, ask the same. seed: of the orders."""

    source: SourceConfig = GlyphsConfig(split="designers")
    limit: int = 0
    stored: str = "order.json"
    seed: int = 0
    tagger: str = "en_core_web_sm"

    def __post_init__(self):
        if self.seed < 0 or not self.stored:
            raise ValueError(f"seed {self.seed}, stored {self.stored!r}: give a seed from 0, and a file")


class Order:
    """The protocol over an opened source. Raises FileNotFoundError where there is neither file nor spaCy, and ValueError for a
    file that is damaged, of another seed, or without one of the source's captions."""

    def __init__(self, config: OrderConfig):
        source = open_source(config.source)
        check_readable(source)
        self._limit = min(config.limit, len(source)) if config.limit else len(source)
        self._source = _Reordered(source, _orders(config, source, self._limit))

    def __call__(self, encoder: Encoder) -> Outcome:
        """ORDER_FIGURES: of captions, those likelier than all their other orders; and of each order alone, those likelier than
        it. Raises ValueError where nothing can be read."""
        found = encoder.source(self._source, limit=self._limit)
        texts = found.caption.reshape(-1, 1 + len(ORDERS), found.caption.shape[-1])
        key, owner = (one.reshape(texts.shape[:2]) for one in (found.key, found.owner))
        scores = np.einsum("noe,ne->no", texts, found.image[owner[:, 0]])
        other = key[:, 1:] != key[:, :1]  # a caption stands where no order differs
        asked = other.any(axis=1)
        if not asked.any():
            raise ValueError(f"{self._source.name}: no image can be read that has a caption of more than one order")
        wins = scores[:, :1] > scores[:, 1:]
        chance = np.array([1 / len(set(row.tolist())) for row in key[asked]])
        first = (wins | ~other)[asked].all(axis=1)
        figures = {"precision_at_1": Figure(value=float(first.mean()), chance=float(chance.mean()))}
        for name, won, there in zip(ORDERS, wins.T, other.T, strict=True):
            if there.any():
                figures[name] = Figure(value=float(won[there].mean()), chance=1 / 2)
        counts = {"images": len(found.image), "captions": int(asked.sum()), "unreadable": found.bad_count}
        return Outcome(figures=figures, counts=counts)


class _Reordered:
    """A source whose samples have each caption followed by its other orders, by itself where there is none."""

    def __init__(self, source: Source, orders: Orders):
        self._source, self._orders = source, orders
        self.name, self.classes = source.name, source.classes

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        sample, captions = self._source[index], []
        for text in filter(str.strip, sample.captions):
            own, others = self._orders[text]
            captions += [own, *(own if other is None else other for other in others)] if own else []
        return dataclasses.replace(sample, captions=tuple(captions))

    def shard(self, index: int) -> str:
        return self._source.shard(index)

    def uid(self, index: int) -> int:
        return self._source.uid(index)


def _orders(config: OrderConfig, source: Source, limit: int) -> Orders:
    """Of all captions of the first samples, from the file, or made and written there."""
    captions = dict.fromkeys(_captions(source, limit))
    file = Path(config.stored)
    if not file.is_file():
        _log.info("%s: tagging %d captions, once; their orders go to %s", source.name, len(captions), file)
        try:
            tagger, tags = tagged(captions, config.tagger)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{file} is not there, and to write it {error}") from error
        orders = {text: reordered(text, own, config.seed) for text, own in zip(captions, tags, strict=True)}
        if jax.process_index() == 0:
            about = {"source": source.name, "seed": config.seed, "tagger": tagger, "orders": [*ORDERS]}
            file.parent.mkdir(parents=True, exist_ok=True)
            write_durably(file, [json.dumps({**about, "captions": orders}, indent=1).encode()])
        return orders
    orders = _read(file, config.seed)
    missing = [text for text in captions if text not in orders]
    if missing:
        raise ValueError(
            f"{file} lacks {len(missing)} of {len(captions)} captions of {source.name}, first {missing[0]!r}: name another file "
            "in `stored`, which is then written"
        )
    return orders


def _captions(source: Source, limit: int) -> Iterable[str]:
    for index in range(limit):
        try:
            yield from filter(str.strip, source[index].captions)
        except BadSample:
            continue  # counted when it is embedded


def _read(file: Path, seed: int) -> Orders:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        there = {name: content[name] for name in ("seed", "orders")}
        orders = {text: (own, [*others]) for text, (own, others) in content["captions"].items()}
        if any(len(others) != len(ORDERS) for _, others in orders.values()):
            raise ValueError(f"a caption has not {len(ORDERS)} orders")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} is damaged ({type(error).__name__}: {error}); delete it, and it is written anew"
        ) from error
    if there != {"seed": seed, "orders": [*ORDERS]}:
        raise ValueError(
            f"{file} holds orders {there['orders']} of seed {there['seed']}; expected {[*ORDERS]} of {seed}: set `seed`, or name "
            "another file in `stored`"
        )
    return orders
