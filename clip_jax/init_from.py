"""A fresh training state around weights from anywhere: another run, or another project."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

from clip_jax import tree
from clip_jax.data.teacher_manifest import TeacherInfo
from clip_jax.experiment import Plan
from clip_jax.inherit import InheritConfig, inherit
from clip_jax.interop.proof.samples import samples
from clip_jax.interop.recognize import Opened, open_weights
from clip_jax.models.clip import CLIPConfig, adapt_positions, towers_of
from clip_jax.models.text import TextConfig
from clip_jax.plain import to_dict
from clip_jax.state import TrainState, new_state
from clip_jax.tokenizer_file import open_tokenizer

_log = logging.getLogger(__name__)
_NONE: Mapping[str, TeacherInfo] = MappingProxyType({})

# What may differ between the weights' own configuration and that of the training which starts from them.
_FREE = (
    "image_size",
    "patch_dropout",
    "context_length",
    "init_logit_scale",
    "dtype",
    "running",
    "tokenizer",
    "tokenizer_clean",
)


def state_from(plan: Plan, source: str, embedded: Mapping[str, TeacherInfo] = _NONE) -> TrainState:
    """A state at step 0 with the weights that `source` (as in clip_jax.load) names; positions follow the image size.

    embedded: who made the stores of the training's teachers, by the teacher's name. Raises ValueError where `source` is the
    name of one and other weights lie there now; one that lists the parameters that do not fit, and the settings in which
    the two models differ though their parameters would fit: activation, pooling, eps, ids, and how images are prepared.
    """
    opened = _opened("init_from", source, embedded)
    model = plan.config.model
    params = adapt_positions(opened.params, model)
    wrong = tree.misfits(params, towers_of(plan.state.params))
    if wrong:
        raise ValueError(f"init_from {source} holds another model:\n  " + "\n  ".join(wrong[:20]))
    if differing := _differing(opened.config, model) + _differing_ids(opened.config.text_cfg, model.text_cfg):
        raise ValueError(
            f"init_from {source} fits in shape, but not in meaning; set the model of this config as the weights want it:\n  "
            + "\n  ".join(differing)
        )
    _log.info("starting from %s: %s", source, opened.said)
    return _state_around(plan, params)


def inheriting_state(plan: Plan, choice: InheritConfig, embedded: Mapping[str, TeacherInfo] = _NONE) -> TrainState:
    """A state at step 0 whose chosen towers are cut out of the larger model `choice.model`; the rest is freshly initialised.

    embedded: as in `state_from`. Raises ValueError as it does for weights that have changed, for what `inherit` refuses,
    and where the text tower is inherited with a tokenizer that gives other ids.
    """
    opened = _opened("inherit.model", choice.model, embedded)
    model = plan.config.model
    try:
        params = inherit(plan.state.params, model, opened.params, opened.config, choice)
        if choice.text.on and (differing := _differing_ids(opened.config.text_cfg, model.text_cfg)):
            raise ValueError(f"{differing[0]}; take the teacher's tokenizer, or set inherit.text.on=False")
    except ValueError as error:
        raise ValueError(f"inherit.model {choice.model}: {error}") from error
    _log.info("inheriting from %s: %s", choice.model, opened.said)
    return _state_around(plan, params)


def _opened(setting: str, source: str, embedded: Mapping[str, TeacherInfo]) -> Opened:
    """The weights that `source` names. Raises ValueError where a store has embeddings of others by the same name."""
    opened = open_weights(source)
    for name, made_by in embedded.items():
        if Path(source).expanduser().resolve() != Path(made_by.name).expanduser().resolve():
            continue
        if (found := tree.weights_hash(opened.params)) != made_by.weights_hash:
            raise ValueError(
                f"{setting} {source} holds the weights {found[:12]}, but the store of teachers.{name} was embedded with the "
                f"weights {made_by.weights_hash[:12]} by that name; run clip-jax embed again into another folder, or name in "
                f"{setting} the weights that were embedded"
            )
    return opened


def _state_around(plan: Plan, params: dict[str, Any]) -> TrainState:
    """A state with these parameters; those that are missing, or only shapes, are freshly initialised."""
    known = tree.leaves_by_path(params)
    given = {path: leaf for path, leaf in known.items() if not isinstance(leaf, jax.ShapeDtypeStruct)}

    def fresh(given: dict[str, Any], key: jax.Array) -> TrainState:
        whole = tree.nested(tree.leaves_by_path(plan.init_params(key)) | given)
        return new_state(whole, tx=plan.tx, ema=plan.config.optim.ema_decay > 0)

    return jax.jit(fresh, out_shardings=plan.shardings)(given, jax.random.key(plan.config.seed))


def _differing(there: CLIPConfig, here: CLIPConfig) -> list[str]:
    if not (there.text_cfg.no_causal_mask or here.text_cfg.no_causal_mask):  # no token sees what fills the rest
        text = dataclasses.replace(there.text_cfg, pad_id=here.text_cfg.pad_id)
        there = dataclasses.replace(there, text_cfg=text)
    old, new = (tree.leaves_by_path(_settings(config)) for config in (there, here))
    return [f"{key}: {old.get(key)} there, {new.get(key)} here" for key in sorted(old) if old.get(key) != new.get(key)]


def _differing_ids(there: TextConfig, here: TextConfig) -> list[str]:
    """Of the tokenizers what counts: whether they give the same ids."""
    captions = samples()[1]
    there = dataclasses.replace(there, context_length=here.context_length, pad_id=here.pad_id)
    old, new = open_tokenizer(there)(captions), open_tokenizer(here)(captions)
    same = (old == new).all(axis=1)
    return [] if same.all() else [f"text_cfg/tokenizer: it reads {captions[int(same.argmin())]!r} as other ids"]


def _settings(config: CLIPConfig) -> dict[str, Any]:
    def kept(part: dict[str, Any]) -> dict[str, Any]:
        return {
            name: kept(value) if isinstance(value, dict) else str(value)
            for name, value in part.items()
            if name not in _FREE
        }

    return kept(to_dict(config))
