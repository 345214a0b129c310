"""How large a model is, counted from its configuration: parameters by tower, and bytes as weights are stored."""

import dataclasses

from flax import nnx

from clip_jax import tree
from clip_jax.models.clip import CLIP, CLIPConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """image, text, parameters: numbers that are learned, of each tower and of the whole model with its temperature.
    stored: these and the running statistics of batch norms, which a file of weights holds too."""

    image: int
    text: int
    parameters: int
    stored: int

    def megabytes(self, bits: int) -> float:
        """10^6 bytes of all that is stored, in numbers of so many bits."""
        return self.stored * bits / 8e6


def size(config: CLIPConfig) -> Size:
    """Of a model with this configuration; makes no arrays."""
    model = nnx.eval_shape(lambda: CLIP(config, rngs=nnx.Rngs(0)))
    learned = (tree.count(nnx.state(part, nnx.Param)) for part in (model.visual, model.text, model))
    image, text, parameters = learned
    return Size(image=image, text=text, parameters=parameters, stored=tree.count(nnx.state(model)))
