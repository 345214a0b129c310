"""The towers as functions of pixels and ids alone, weights inside: what every format is made of."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from clip_jax import tree
from clip_jax.export.half import Function, within_half
from clip_jax.interop.packing import Precision, Quantized, is_table, packed
from clip_jax.models.clip import CLIPConfig, bind
from clip_jax.models.layers import Running
from clip_jax.models.resnet import ResNetConfig, with_norms_folded

Tower = Literal["image", "text", "joint"]
TOWERS: tuple[Tower, ...] = ("image", "text", "joint")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Graph:
    """name: of the file. function: arrays by `inputs`' order -> as many as `outputs`. inputs: name -> (shape without the
    batch, dtype). parameters: numbers inside. weights: by our paths, f32, a ResNet's
    with its norms folded in."""

    name: Tower
    function: Function
    inputs: Mapping[str, tuple[tuple[int, ...], np.dtype]]
    outputs: tuple[str, ...]
    parameters: int
    weights: Mapping[str, np.ndarray]

    def abstract(self, batch: Any) -> list[jax.ShapeDtypeStruct]:
        """What the function takes; batch: a number, or a symbolic dimension."""
        return [jax.ShapeDtypeStruct((batch, *shape), dtype) for shape, dtype in self.inputs.values()]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """One file to be written. params: nested dict of arrays, f32. preprocess: pixels come as u8 and are normalised inside.
    batch: of every call, None for any. origin: what is known of the model's training."""

    config: CLIPConfig
    params: Any
    tower: Tower
    precision: Precision
    preprocess: bool
    batch: int | None
    origin: dict[str, Any] = dataclasses.field(default_factory=dict)

    def graph(self, *, stored: Precision = "f32", tables: Precision | None = None) -> Graph:
        """Its towers. stored: the precision of weights inside, unpacked where they are used; tables: of embedding tables, where
        that is another."""
        return graph(
            self.config, self.params, self.tower, preprocess=self.preprocess, stored=stored, tables=tables or stored
        )


def graph(
    config: CLIPConfig,
    params: Any,
    name: Tower,
    *,
    preprocess: bool,
    stored: Precision = "f32",
    tables: Precision = "f32",
) -> Graph:
    """A tower, or both with their logits.

    Inputs: "pixels", f32[B, S, S, 3] normalised by preprocess_cfg, or with `preprocess` u8[B, S, S, 3] as decoded and cut;
    "tokens", i32[B, L]. Outputs: "image_embedding" and "text_embedding", unit-norm f32[B, E]; of "joint" also "logits",
    f32[B, B], images by texts, scale and bias applied. Layers are unrolled, and everything is computed in float32.
    stored: the weights' precision inside, unpacked by the graph where they are used; tables: that of embedding tables.
    """
    config = dataclasses.replace(config, dtype="float32", running=Running(scan=False))
    image, text = name != "text", name != "image"
    paths = {path: np.asarray(leaf, np.float32) for path, leaf in tree.leaves_by_path(params).items()}
    if isinstance(config.vision_cfg, ResNetConfig):
        paths = with_norms_folded(paths)
    names = [path for path in paths if path.startswith(("visual/",) * image + ("text/",) * text)]
    size, context = config.vision_cfg.image_size, config.text_cfg.context_length
    inputs: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
    if image:
        inputs["pixels"] = (size, size, 3), np.dtype(np.uint8 if preprocess else np.float32)
    if text:
        inputs["tokens"] = (context,), np.dtype(np.int32)
    stands = {
        path: _Rows(packed(path, array, tables)) if is_table(path) else packed(path, array, stored)
        for path, array in paths.items()
    }

    def run(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        model = bind(config, tree.nested({path: _unpacked(one) for path, one in stands.items()}))
        outputs = []
        with jax.default_matmul_precision("highest"):  # of f32, TPUs and GPUs multiply fewer bits unless they are told
            if image:
                outputs.append(model.encode_image(arrays[0]))
            if text:
                outputs.append(model.encode_text(arrays[-1]))
            if image and text:
                outputs.append(model.scale() * (outputs[0] @ outputs[1].T) + model.bias())
        return tuple(outputs)

    return Graph(
        name=name,
        function=within_half(run),
        inputs=inputs,
        outputs=("image_embedding",) * image + ("text_embedding",) * text + ("logits",) * (image and text),
        parameters=sum(paths[path].size for path in names),
        weights={path: paths[path] for path in names},
    )


class _Rows:
    """An embedding table of which a graph unpacks the rows it looks up, not the whole."""

    def __init__(self, table: np.ndarray | Quantized):
        self._table = table

    def __getitem__(self, at: Any) -> Any:
        """`[...]` is the table itself; by ids i32[...], f32[..., D]."""
        if at is Ellipsis:
            return self
        if isinstance(self._table, Quantized):
            rows = jnp.asarray(self._table.values)[at].astype(jnp.float32)
            return rows * jnp.asarray(self._table.scale)[at]
        if self._table.dtype == np.float16:  # LiteRT looks rows of 16-bit integers up, and none of f16
            bits = jnp.asarray(self._table.view(np.int16))[at]
            return jax.lax.bitcast_convert_type(bits, jnp.float16).astype(jnp.float32)
        return jnp.asarray(self._table)[at]


def _unpacked(one: Any) -> Any:
    if isinstance(one, Quantized):
        return jnp.asarray(one.values).astype(jnp.float32) * jnp.asarray(one.scale)
    if isinstance(one, np.ndarray) and one.dtype == np.float16:
        return jnp.asarray(one).astype(jnp.float32)
    return one
