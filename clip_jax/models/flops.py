"""What a model costs to compute: multiply-adds of the products, counted from its configuration."""

from clip_jax.models.clip import CLIPConfig

# Published peaks of dense bf16 products, FLOP/s a chip, by `jax.Device.device_kind`.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 2307e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}


def macs_per_pair(config: CLIPConfig) -> int:
    """Multiply-adds of one image and one text forward through the towers, patch dropout off."""
    vision, text = config.vision_cfg, config.text_cfg
    patches = (vision.image_size // vision.patch_size) ** 2
    image = patches * 3 * vision.patch_size**2 * vision.width + vision.width * config.embed_dim
    image += vision.layers * _block(patches + 1, vision.width, vision.mlp_ratio)
    words = text.width * config.embed_dim + text.layers * _block(text.context_length, text.width, text.mlp_ratio)
    return image + words


def train_flops_per_pair(config: CLIPConfig) -> int:
    """FLOPs of forward and backward, 3 x 2 x multiply-adds; recomputation under remat does not count."""
    return 6 * macs_per_pair(config)


def _block(length: int, width: int, mlp_ratio: float) -> int:
    products = length * width * (4 * width + 2 * int(width * mlp_ratio))
    return products + 2 * length * length * width
