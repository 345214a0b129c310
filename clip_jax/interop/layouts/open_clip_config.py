"""open_clip_config.json to our configuration and back: every field that both know, and a refusal of those that one lacks."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from clip_jax.interop.layouts.open_clip_trunks import TRUNKS, by_name, differences, trunk_of
from clip_jax.models.clip import CLIPConfig, PreprocessConfig, abstract_params
from clip_jax.models.presets_siglip import SIGLIP_NAMES, siglip
from clip_jax.models.resnet import ResNetConfig
from clip_jax.models.text import TextConfig
from clip_jax.models.vit import VisionConfig
from clip_jax.plain import from_dict
from clip_jax.typed import near

FILE = "open_clip_config.json"
_EOS_ID = 2  # open_clip's default, where it pools at an eos; ours is CLIP's own
_SHARED = ("layers", "width", "head_width", "image_size")
_VIT = (*_SHARED, "mlp_ratio", "patch_size", "patch_dropout")
_TEXT = (
    *("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"),
    *("no_causal_mask", "pool_type", "proj_type", "proj_bias"),
)
# Fields that we have not, and the values at which they do nothing.
_BLOCK = {
    **{"ls_init_value": (None,), "block_type": (None, "default"), "output_tokens": (False,)},
    **dict.fromkeys(
        ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"), (False,)
    ),
}
_VIT_ONLY: dict[str, tuple[Any, ...]] = {
    **_BLOCK,
    **{"attentional_pool": (False, None), "no_ln_pre": (False,), "pos_embed_type": ("learnable",)},
    **{"final_ln_after_pool": (False,), "pool_type": ("tok",)},
}
_TIMM_ONLY: dict[str, tuple[Any, ...]] = {"timm_drop": (0, None), "timm_drop_path": (0, None)}
_TEXT_ONLY: dict[str, tuple[Any, ...]] = {
    **_BLOCK,
    **{"embed_cls": (False,), "hf_model_name": (None, ""), "tokenizer_mode": (None, "")},
}
_TOP_ONLY: dict[str, tuple[Any, ...]] = {"multimodal_cfg": (None,)}
# Fields that say nothing of the model: how it is loaded, or of a part that it does not have.
_NO_TOWER = ("timm_model_pretrained", "timm_proj_bias", "attn_pooler_queries", "attn_pooler_heads")
_NO_TEXT = ("hf_model_pretrained", "hf_proj_type", "hf_pooler_type", "final_ln_after_pool")
_NO_TOP = ("custom_text", "nonscalar_logit_scale", "output_dict", "cast_dtype")

# SigLIP's tokenizers, by open_clip's names -> the id that fills what a text leaves empty. SigLIP 2 has a copy for each model.
_PADS = {"timm/ViT-B-16-SigLIP": 1, "timm/ViT-B-16-SigLIP-i18n-256": 1} | {
    f"timm/{name}": 0 for name in SIGLIP_NAMES if "SigLIP2" in name
}
_ENGLISH, _MANY = 32_000, 250_000  # vocabularies of the first two
_OTHER_TOKENIZER = "tokenizer.json"  # open_clip wants some name; of a folder it reads the files in it


class _Fields:
    """Fields of one JSON object, taken one by one; what nobody takes and nobody may ignore is wrong."""

    def __init__(self, given: Any, where: str, wrong: list[str]):
        if not isinstance(given, Mapping):
            raise ValueError(f"{where} is {given!r}; expected an object")
        self.left, self.where, self._wrong = dict(given), where, wrong
        self._known: set[str] = set()

    def take(self, name: str, default: Any = None) -> Any:
        """The field's value, or the default where it is not given."""
        self._known.add(name)
        return self.left.pop(name, default)

    def some(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Those of the fields that are given."""
        self._known.update(names)
        return {name: self.left.pop(name) for name in names if name in self.left}

    def refuse(self, name: str, value: Any, needed: str) -> None:
        """Notes that a value is one that we have nothing for."""
        self._wrong.append(f"{self.where}.{name} is {value!r}; clip_jax has {needed}")

    def kwargs(self, name: str, key: str) -> Any:
        """The only entry of norm_kwargs or act_kwargs that we know, None where it is not given."""
        given = self.object(name)
        value = given.pop(key, None)
        if given:
            self.refuse(name, given, f"only {key}")
        return value

    def object(self, name: str) -> dict[str, Any]:
        """The field, an object of its own; {} where it is not given."""
        return _Fields(self.take(name) or {}, f"{self.where}.{name}", self._wrong).left

    def end(self, neutral: Mapping[str, tuple[Any, ...]], ignored: tuple[str, ...]) -> None:
        """Notes what is left, but for `ignored` fields and those with a value that does nothing."""
        known = self._known | neutral.keys() | set(ignored)
        for name, value in self.left.items():
            if name not in known:
                self._wrong.append(f"{self.where}.{name} is unknown{near(name, known)}")
            elif name in neutral and value not in neutral[name]:
                self.refuse(name, value, f"only {neutral[name][0]!r}")


def from_json(settings: Mapping[str, Any]) -> CLIPConfig:
    """The configuration in an open_clip_config.json, or in a file of open_clip's model_configs, whose model it is the same.

    The tokenizer's file is not in there: text_cfg.tokenizer is "". Raises ValueError that names the file and the field at
    fault, or lists all fields that are unknown or set to what clip_jax does not have.
    """
    try:
        config = _config_from(_Fields(settings, "what it holds", []).left)
        abstract_params(config)  # the towers refuse sizes that do not fit each other
    except ValueError as error:
        raise ValueError(f"{FILE}: {error}") from error
    return config


def _config_from(settings: Mapping[str, Any]) -> CLIPConfig:
    wrong: list[str] = []
    top = _Fields(settings.get("model_cfg", settings), "model_cfg", wrong)
    if missing := [name for name in ("embed_dim", "vision_cfg", "text_cfg") if name not in top.left]:
        raise ValueError(f"model_cfg has no {', '.join(missing)}; is it open_clip's?")
    quick = top.take("quick_gelu", False)
    vision = _vision_from(_Fields(top.take("vision_cfg"), "vision_cfg", wrong), quick)
    text = _text_from(_Fields(top.take("text_cfg"), "text_cfg", wrong), quick)
    whole = {name: top.take(name) for name in ("embed_dim",)} | top.some(("init_logit_scale", "init_logit_bias"))
    top.end(_TOP_ONLY, _NO_TOP)
    preprocess = _preprocess_from(_Fields(settings.get("preprocess_cfg") or {}, "preprocess_cfg", wrong))
    if wrong:
        raise ValueError(f"this model of open_clip's is not one that clip_jax has: {'; '.join(wrong)}")
    model = from_dict(CLIPConfig, whole | {"vision_cfg": vision, "text_cfg": text, "quick_gelu": quick}, "model_cfg")
    return dataclasses.replace(model, preprocess_cfg=from_dict(PreprocessConfig, preprocess, "preprocess_cfg"))


def _vision_from(fields: _Fields, quick: bool) -> dict[str, Any]:
    size = fields.take("image_size", VisionConfig().image_size)
    if isinstance(size, list | tuple) and len(size) == 2 and size[0] == size[1]:
        size = size[0]
    if name := fields.take("timm_model_name"):
        return _timm_from(fields, str(name), size, quick)
    if isinstance(fields.left.get("layers"), list | tuple):
        given = fields.some(_SHARED)
        width = {"width": given.pop("width", VisionConfig().width)}  # theirs is of all towers
        fields.end(
            {}, (*_VIT, *_VIT_ONLY, *_TIMM_ONLY, *_NO_TOWER, "timm_pool", "timm_proj", "norm_kwargs", "act_kwargs")
        )
        return {"kind": "resnet", "image_size": size, **width, **given}
    found = fields.some(_VIT) | {"kind": "vit", "image_size": size} | _block_from(fields, quick)
    fields.end(_VIT_ONLY, (*_TIMM_ONLY, *_NO_TOWER, "timm_pool", "timm_proj"))
    return found


def _timm_from(fields: _Fields, name: str, size: Any, quick: bool) -> dict[str, Any]:
    base = name.split(".")[0]  # what follows a dot names weights
    if base not in TRUNKS:
        hint = near(base, TRUNKS) if "siglip" in base else ""
        fields.refuse("timm_model_name", name, f"of timm's towers only SigLIP's{hint}: {', '.join(TRUNKS)}")
    elif size != TRUNKS[base].image_size:
        fields.refuse("image_size", size, f"only {TRUNKS[base].image_size} for {base}, as has open_clip")
    for field, default, ours in (("timm_pool", "avg", "map"), ("timm_proj", "linear", "none")):
        if (given := fields.take(field, default)) != ours:
            fields.refuse(field, given, f"only {ours!r} for timm's towers")
    if quick:
        fields.refuse(
            "timm_model_name", name, "one activation for both towers: with quick_gelu, timm's would have another"
        )
    dropout = fields.some(("patch_dropout",))
    fields.end(_TIMM_ONLY, (*_VIT, *_VIT_ONLY, *_NO_TOWER, "norm_kwargs", "act_kwargs"))
    trunk = TRUNKS[base] if base in TRUNKS else VisionConfig()
    return {"kind": "vit", **dataclasses.asdict(trunk), **dropout}


def _text_from(fields: _Fields, quick: bool) -> dict[str, Any]:
    found = fields.some(_TEXT) | _block_from(fields, quick)
    eos, pad = fields.take("eos_id", _EOS_ID), fields.take("pad_id")
    if found.get("pool_type") == "eos":
        found["eos_id"] = eos
    name, kwargs = fields.take("hf_tokenizer_name"), fields.object("tokenizer_kwargs")
    cleaning = kwargs.pop("clean", "whitespace" if name else "lower")
    if name:
        pad = _PADS.get(str(name)) if pad is None else pad
        if pad is None and (found.get("no_causal_mask") or found.get("pool_type") == "last"):
            fields.refuse(
                "pad_id", None, f"to be told the id with which {name} fills: this model's output depends on it"
            )
        found |= {"tokenizer_clean": cleaning, "pad_id": pad or 0}
    elif cleaning != "lower":
        kwargs["clean"] = cleaning
    if kwargs := {key: value for key, value in kwargs.items() if value not in (None, False, "")}:
        fields.refuse(
            "tokenizer_kwargs", kwargs, "of these only 'clean', and that of a tokenizer with hf_tokenizer_name"
        )
    fields.end(_TEXT_ONLY, _NO_TEXT)
    return found


def _block_from(fields: _Fields, quick: bool) -> dict[str, Any]:
    eps, approximate = fields.kwargs("norm_kwargs", "eps"), fields.kwargs("act_kwargs", "approximate")
    if quick and approximate is not None:
        fields.refuse("act_kwargs", {"approximate": approximate}, "none with quick_gelu")
    given = {"norm_eps": eps, "gelu_approximate": approximate}
    return {name: value for name, value in given.items() if value is not None}


def _preprocess_from(fields: _Fields) -> dict[str, Any]:
    fields.left = {name: value for name, value in fields.left.items() if value is not None}
    found = fields.some(tuple(field.name for field in dataclasses.fields(PreprocessConfig)))
    for name in ("mean", "std"):
        if isinstance(found.get(name), int | float):
            found[name] = (found[name],) * 3
    fields.end({"mode": ("RGB",)}, ("size",))  # size: theirs too takes the tower's
    return found


def check(config: CLIPConfig) -> None:
    """Raises ValueError that lists what of a model open_clip has nothing for."""
    if wrong := list(_misfits(config)):
        raise ValueError(
            f"open_clip cannot run this model as it is: {'; '.join(wrong)}. --to clip_jax holds every model"
        )


def _misfits(config: CLIPConfig) -> Iterator[str]:
    timm, text = by_name(config.vision_cfg), config.text_cfg
    if timm is not None:
        if config.quick_gelu:
            yield "quick_gelu true: its towers with pool_type 'map' are timm's, which have another activation"
        try:
            trunk_of(timm)
        except ValueError as error:
            yield str(error)
    byte_pairs = not _tokenizer_name(config) and text.vocab_size >= TextConfig().vocab_size
    if byte_pairs and text.pad_id and (text.no_causal_mask or text.pool_type == "last"):
        yield f"text_cfg.pad_id {text.pad_id}: with CLIP's byte pairs it fills with 0, and this model's output depends on it"
    if text.tokenizer and text.tokenizer_clean == "none":
        yield "text_cfg.tokenizer_clean 'none': it repairs at least broken encodings and spaces ('whitespace')"
    if config.preprocess_cfg.interpolation == "lanczos":
        yield "preprocess_cfg.interpolation 'lanczos': it has 'bicubic' and 'bilinear'"


def to_json(config: CLIPConfig) -> dict[str, Any]:
    """open_clip_config.json: model_cfg and preprocess_cfg. Raises ValueError as `check` does."""
    check(config)
    quick, vision, text = config.quick_gelu, config.vision_cfg, config.text_cfg
    timm = by_name(vision)
    model: dict[str, Any] = {
        "embed_dim": config.embed_dim,
        "quick_gelu": quick,
        "init_logit_scale": config.init_logit_scale,
    }
    if config.init_logit_bias is not None:
        model["init_logit_bias"] = config.init_logit_bias
    if timm is not None:
        model["custom_text"] = True
    model["vision_cfg"] = _tower_to(vision, quick) if timm is None else _timm_to(timm)
    model["text_cfg"] = {name: getattr(text, name) for name in _TEXT} | _block_to(text, quick) | _tokens_to(config)
    preprocess = {"size": vision.image_size, "mode": "RGB"} | dataclasses.asdict(config.preprocess_cfg)
    return {"model_cfg": model, "preprocess_cfg": preprocess}


def _timm_to(vision: VisionConfig) -> dict[str, Any]:
    name = {
        "timm_model_name": trunk_of(vision),
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    }
    return {"image_size": vision.image_size, **name, "patch_dropout": vision.patch_dropout}


def _tower_to(vision: VisionConfig | ResNetConfig, quick: bool) -> dict[str, Any]:
    if isinstance(vision, ResNetConfig):
        return {name: getattr(vision, name) for name in _SHARED} | {"patch_size": None}
    return {name: getattr(vision, name) for name in _VIT} | _block_to(vision, quick)


def _block_to(tower: VisionConfig | TextConfig, quick: bool) -> dict[str, Any]:
    norm = {} if tower.norm_eps == 1e-5 else {"norm_kwargs": {"eps": tower.norm_eps}}
    return norm if quick or tower.gelu_approximate == "none" else norm | {"act_kwargs": {"approximate": "tanh"}}


def _tokens_to(config: CLIPConfig) -> dict[str, Any]:
    text = config.text_cfg
    found: dict[str, Any] = {"eos_id": text.eos_id} if text.pool_type == "eos" else {}
    if name := _tokenizer_name(config):
        found |= {"hf_tokenizer_name": name, "tokenizer_kwargs": {"clean": text.tokenizer_clean}, "pad_id": text.pad_id}
    return found


def _tokenizer_name(config: CLIPConfig) -> str:
    """open_clip's name for the tokenizer: that of the SigLIP with the same towers, else of any file, "" for CLIP's own."""
    vision, text = by_name(config.vision_cfg), config.text_cfg
    for name in SIGLIP_NAMES:
        known = siglip(name)
        known_vision = by_name(known.vision_cfg)
        if vision is None or known_vision is None:
            break
        if not [*differences(vision, known_vision), *differences(text, known.text_cfg)]:
            same = {_ENGLISH: "ViT-B-16-SigLIP", _MANY: "ViT-B-16-SigLIP-i18n-256"}.get(text.vocab_size, name)
            return f"timm/{same}"
    return _OTHER_TOKENIZER if text.tokenizer else ""
