"""The model card that goes with weights: what the model is, where it comes from, how it was proven, and how to load it."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clip_jax.evals.protocol import is_share
from clip_jax.experiment import TrainConfig
from clip_jax.interop.card_tables import architecture, cell, preparation, table
from clip_jax.interop.proof.gate import Difference
from clip_jax.interop.scrub import scrubbed
from clip_jax.models.clip import CLIPConfig
from clip_jax.plain import to_dict

Sections = Iterable[tuple[str, str | None]]
_LISTED = 8  # entries of a list, such as a source's shards


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance:
    """What is known of some weights; what is None is left out of the card.

    source: what they were converted from, in words. run, evaluation: the run that trained them, and the content of its
    evaluation.json. difference: of source and result on the same images and captions. logit_scale: the learned factor on
    cosines itself, not its log; logit_bias: the learned one.
    """

    source: str
    run: TrainConfig | None = None
    evaluation: Mapping[str, Any] | None = None
    difference: Difference | None = None
    logit_scale: float | None = None
    logit_bias: float | None = None


def model_card(name: str, layout: str, config: CLIPConfig, provenance: Provenance) -> str:
    """Markdown with YAML front matter, for a folder called `name` in `layout` ("clip_jax", "openai", "open_clip",
    "huggingface"); sections with nothing to say are left out."""
    sections = (
        ("Architecture", architecture(config, provenance.logit_scale, provenance.logit_bias)),
        ("Input", preparation(config)),
        ("Training", None if provenance.run is None else training(provenance.run)),
        ("Evaluation", None if provenance.evaluation is None else evaluation(provenance.evaluation)),
        ("Where the weights come from", _origin(provenance)),
        ("How to load it", loading(name, (layout,), config)),
    )
    return page(name, config, sections, front={"library_name": _LIBRARIES.get(layout, "clip_jax")})


_LIBRARIES = {"open_clip": "open_clip", "huggingface": "transformers"}


def page(name: str, config: CLIPConfig, sections: Sections, front: Mapping[str, str]) -> str:
    """A card of sections, (title, Markdown); those with nothing to say are left out. front: what the front matter begins with."""
    text = "\n\n".join(f"## {title}\n\n{body}" for title, body in sections if body)
    intro = "A dual encoder: images and texts become vectors of one space, in which a picture lies near words for it."
    tags = ["clip" if config.init_logit_bias is None else "siglip", "image-text-retrieval"]
    lines = [f"{key}: {value}" for key, value in front.items()]
    lines += ["pipeline_tag: zero-shot-image-classification", "tags:", *(f"- {tag}" for tag in tags)]
    return "\n".join(["---", *lines, "---", "", f"# {cell(name)}", "", intro, "", text, ""])


def training(config: TrainConfig) -> str:
    """The run that trained the weights, as a table."""
    optim = config.optim
    rows: list[tuple[str, Any]] = [
        ("data", _described(scrubbed(to_dict(config.source)))),
        ("steps", f"{config.steps:,}"),
        ("batch", f"{config.batch_size:,} pairs"),
        ("pairs in all steps", f"{config.steps * config.batch_size:,}"),
        ("objective", ", ".join(f"{weight:g} x {name}" for name, weight in config.objective.weights.items())),
        ("optimizer", f"{optim.name}, b1 {optim.b1:g}, b2 {optim.b2:g}, weight decay {optim.weight_decay:g}"),
        ("learning rate", f"{optim.lr:g}, {optim.schedule}, {optim.warmup_steps:,} steps of warmup"),
        ("computed in", config.model.dtype),
    ]
    if optim.ema_decay:
        rows.append(("averaged weights", f"decay {optim.ema_decay:g}"))
    if optim.freeze:
        rows.append(("frozen", ", ".join(optim.freeze)))
    if config.init_from:
        rows.append(("started from", scrubbed(config.init_from)))
    if config.origin:
        rows.append(("configuration", scrubbed(config.origin)))
    return table(("", ""), rows)


def _described(source: Mapping[str, Any]) -> str:
    """A source's configuration in one line."""
    if "parts" in source:
        parts = (f"{part['weight']:g} x ({_described(part['source'])})" for part in source["parts"])
        return "mixture of " + ", ".join(parts)
    said = [
        f"{key} {_listed(value)}" for key, value in source.items() if key != "kind" and value not in ("", None, [], {})
    ]
    return f"{source['kind']}: {', '.join(said)}" if said else source["kind"]


def _listed(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    rest = f" and {len(value) - _LISTED} more" if len(value) > _LISTED else ""
    return ", ".join(map(str, value[:_LISTED])) + rest


def evaluation(content: Mapping[str, Any]) -> str:
    """What evaluation.json holds, as a table; "" where it holds no figure."""
    about = content["about"]
    rows = [
        (name, figure, *("" if one[what] is None else _written(figure, one[what]) for what in ("value", "chance")))
        for name, outcome in content["evaluations"].items()
        for figure, one in outcome["figures"].items()
    ]
    if not rows:
        return ""
    measured = table(("evaluation", "figure", "%", "chance %"), rows, right=2)
    weights = {"ema": "averaged", "raw": "raw"}.get(about.get("weights", ""), "")
    when = f" at step {about['step']:,}, with {weights} weights" if weights and "step" in about else ""
    signed = "" if all(is_share(figure) for _, figure, *_ in rows) else " Numbers with a sign are not in %."
    return f"{measured}\n\nMeasured by clip_jax{when}.{signed}"


def _written(figure: str, value: float) -> str:
    return f"{100 * value:.2f}" if is_share(figure) else f"{value:+.3f}"


def _origin(provenance: Provenance) -> str:
    said = f"Converted by clip_jax from {cell(provenance.source)}."
    found = provenance.difference
    if found is None:
        return said
    rows = [
        ("elements of image embeddings", f"{found.image:.1e}"),
        ("elements of text embeddings", f"{found.text:.1e}"),
        ("logits", f"{found.logits:.1e}"),
    ]
    proof = table(("", "largest difference"), rows, right=1)
    return (
        f"{said} Source and result ran on the same images and captions, in f32; embeddings have length 1:\n\n{proof}\n\n"
        f"The smallest cosine between two embeddings of the same input is {found.cosine:.7f}. Computed by "
        f"{cell(found.by[0])} and by {cell(found.by[1])}."
    )


def loading(name: str, layouts: Sequence[str], config: CLIPConfig) -> str:
    """How a folder, or org/repo on the hub, is opened by the layouts' libraries, and by ours."""
    known = {
        "openai": ("OpenAI's clip", _OPENAI),
        "open_clip": ("open_clip", _OPEN_CLIP),
        "huggingface": ("transformers", _TRANSFORMERS),
    }
    ways = [known[layout] for layout in layouts if layout in known]
    published = "/" in name
    marks = {
        "LENGTH": str(config.text_cfg.context_length),
        "OURS": f"hf-hub:{name}" if published else name,
        "PLACE": f"{'hf-hub' if published else 'local-dir'}:{name}",
        "FILE": "model.pt" if published else f"{name}/model.pt",
        "NAME": name,
    }
    parts = [
        f"With {library}:\n\n```python\n{re.sub('|'.join(marks), lambda found: marks[found[0]], code)}\n```"
        for library, code in (("clip_jax", _OURS), *ways)
    ]
    if "huggingface" in layouts and config.text_cfg.no_causal_mask:
        parts.append(_PADDED)
    if "huggingface" in layouts and config.preprocess_cfg.resize_mode == "shortest":
        parts.append(_CROPPED)
    return "\n\n".join(parts)


_OURS = """import clip_jax

model = clip_jax.load("OURS")
model.similarity(["photo.jpg"], ["a red house", "a cat"])"""
_OPENAI = """import clip

model, preprocess = clip.load("FILE", device="cpu", jit=False)
tokens = clip.tokenize(["a red house", "a cat"])"""
_OPEN_CLIP = """import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("PLACE")
tokenizer = open_clip.get_tokenizer("PLACE")"""
_TRANSFORMERS = """from PIL import Image
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("NAME")
processor = AutoProcessor.from_pretrained("NAME")
inputs = processor(
    text=["a red house", "a cat"],
    images=Image.open("photo.jpg").convert("RGB"),
    padding="max_length",
    truncation=True,
    max_length=LENGTH,
    return_tensors="pt",
)
logits = model(**inputs).logits_per_image"""
_PADDED = (
    "Texts must be padded to their full length: this model has no causal mask, so it sees the padding, and with less of "
    "it gives other scores."
)
_CROPPED = (
    "Of an image that, once resized, exceeds the square by an odd number of pixels, transformers' image processor rounds "
    "the crop's corner down and can cut one pixel beside where clip_jax, open_clip and OpenAI's code cut, which all round "
    "alike: scores move a little."
)
