"""What a configuration says of a model, as tables in Markdown."""

from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any

from clip_jax.models.clip import CLIPConfig
from clip_jax.models.layers import activation_of
from clip_jax.models.resnet import ResNetConfig
from clip_jax.models.size import size
from clip_jax.models.vit import VisionConfig


def architecture(config: CLIPConfig, logit_scale: float | None, logit_bias: float | None) -> str:
    """Both towers side by side, and how their embeddings become logits. The learned factor and bias, where known."""
    vision, text = config.vision_cfg, config.text_cfg
    parameters = size(config)
    image_rows = _resnet_rows(vision) if isinstance(vision, ResNetConfig) else _vit_rows(vision, config.quick_gelu)
    text_rows = {
        "kind": "transformer",
        "layers": text.layers,
        "width": text.width,
        "heads": text.heads,
        "MLP width": int(text.width * text.mlp_ratio),
        "activation": activation_of(config.quick_gelu, text.gelu_approximate),
        "norm": f"layer norm, epsilon {text.norm_eps:g}",
        "attention": "to all tokens" if text.no_causal_mask else "causal",
        "input": f"{text.context_length} tokens of a vocabulary of {text.vocab_size:,}",
        "read at": {
            "argmax": "the highest token id, CLIP's end of text",
            "eos": f"the first token {text.eos_id}",
            "last": "the last token",
            "first": "the first token",
        }[text.pool_type],
        "projection": "" if text.proj_type == "none" else "linear, with bias" if text.proj_bias else "linear",
        "parameters": f"{parameters.text:,}",
    }
    image_rows["parameters"] = f"{parameters.image:,}"
    towers = table(
        ("", "image tower", "text tower"), [(key, image_rows.get(key, ""), text_rows[key]) for key in text_rows]
    )
    return f"{towers}\n\nEmbeddings have {config.embed_dim} dimensions and length 1. {_logits(config, logit_scale, logit_bias)}"


def _vit_rows(vision: VisionConfig, quick: bool) -> dict[str, Any]:
    patches = f"{vision.grid} x {vision.grid} patches of {vision.patch_size} pixels"
    token = vision.pool_type == "tok"
    return {
        "kind": "vision transformer",
        "layers": vision.layers,
        "width": vision.width,
        "heads": vision.width // vision.head_width,
        "MLP width": int(vision.width * vision.mlp_ratio),
        "activation": activation_of(quick, vision.gelu_approximate),
        "norm": f"layer norm, epsilon {vision.norm_eps:g}",
        "attention": "to all patches",
        "input": f"{vision.image_size} x {vision.image_size} pixels: {patches}",
        "read at": "a class token" if token else "attention pooling with a learned probe (MAP)",
        "projection": "linear" if token else "",
    }


def _resnet_rows(vision: ResNetConfig) -> dict[str, Any]:
    return {
        "kind": "ResNet with attention pooling",
        "layers": f"{' + '.join(map(str, vision.layers))} bottlenecks",
        "width": f"{vision.width} after the stem, {vision.features} at the end",
        "heads": f"{vision.features // vision.head_width}, of the pooling",
        "activation": "ReLU",
        "norm": "batch norm",
        "input": f"{vision.image_size} x {vision.image_size} pixels",
        "read at": "attention pooling, with the mean as its query",
        "projection": "linear, with bias",
    }


def _logits(config: CLIPConfig, scale: float | None, bias: float | None) -> str:
    formula = "`logit_scale * cosine`" if config.init_logit_bias is None else "`logit_scale * cosine + logit_bias`"
    if scale is None:
        return f"Logits are {formula}."
    learned = f"logit_scale {scale:.4f}" + ("" if bias is None else f" and logit_bias {bias:.4f}")
    return f"Logits are {formula}, with the learned {learned}."


def preparation(config: CLIPConfig) -> str:
    """What is done to images and texts before the towers see them."""
    image, text, size = config.preprocess_cfg, config.text_cfg, config.vision_cfg.image_size
    resize = {
        "shortest": f"the shorter side to {size} pixels, then the central square",
        "longest": f"the longer side to {size} pixels, then filled up to a square with {image.fill_color}",
        "squash": f"to {size} x {size} pixels, whatever the proportions",
    }[image.resize_mode]
    clean = {
        "none": "",
        "whitespace": "runs of white space become one space",
        "lower": "lower case",
        "canonicalize": "lower case, without punctuation",
    }[text.tokenizer_clean]
    rows = [
        ("images", f"{image.interpolation}, antialiased: {resize}"),
        ("mean of channels in 0 to 1", ", ".join(map(str, image.mean))),
        ("standard deviation", ", ".join(map(str, image.std))),
        ("tokenizer", PurePath(text.tokenizer).name if text.tokenizer else "CLIP's byte pairs"),
        *([("texts before the tokenizer", clean)] if clean and text.tokenizer else []),
        ("padding", f"token {text.pad_id}"),
    ]
    return table(("", ""), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], right: int | None = None) -> str:
    """right: the column from which on cells are numbers."""
    line = ["---:" if right is not None and i >= right else "---" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(map(cell, row))} |" for row in (head, line, *rows))


def cell(value: Any) -> str:
    """On one line, and without ending its cell."""
    return " ".join(str(value).split()).replace("|", "\\|")
