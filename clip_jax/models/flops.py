"""What a model costs to compute: multiply-adds of the products, counted from its configuration."""

from clip_jax.models.clip import CLIPConfig
from clip_jax.models.resnet import ResNetConfig
from clip_jax.models.vit import VisionConfig
from clip_jax.plan.chips import CHIPS

# Published peaks of dense bf16 products, FLOP/s a device, by `jax.Device.device_kind`.
PEAK_FLOPS = {kind: chip.flops / chip.halves for chip in CHIPS.values() for kind in chip.kinds}


def macs_per_pair(config: CLIPConfig) -> int:
    """Multiply-adds of one image and one text forward through the towers, patch dropout off."""
    vision, text = config.vision_cfg, config.text_cfg
    resnet = isinstance(vision, ResNetConfig)
    image = _resnet(vision, config.embed_dim) if resnet else _vit(vision, config.embed_dim)
    projection = text.width * config.embed_dim if text.proj_type == "linear" else 0
    words = projection + text.layers * _block(text.context_length, text.width, text.mlp_ratio)
    return image + words


def train_flops_per_pair(config: CLIPConfig) -> int:
    """FLOPs of forward and backward, 3 x 2 x multiply-adds; recomputation under remat does not count."""
    return 6 * macs_per_pair(config)


def _vit(config: VisionConfig, embed_dim: int) -> int:
    patches, width = config.grid**2, config.width
    patching = patches * 3 * config.patch_size**2 * width
    if config.pool_type == "map":  # keys and values of all patches; output and MLP of one row
        pool = 2 * patches * width * (width + 1) + width * (width + 2 * int(width * config.mlp_ratio))
        return patching + config.layers * _block(patches, width, config.mlp_ratio) + pool
    return patching + config.layers * _block(patches + 1, width, config.mlp_ratio) + width * embed_dim


def _resnet(config: ResNetConfig, embed_dim: int) -> int:
    half, side = config.width // 2, config.image_size // 2
    macs = side**2 * 9 * (3 * half + half * half + half * config.width)
    side, entering = side // 2, config.width
    for stage, depth in enumerate(config.layers):
        inner = config.width * 2**stage
        leaving = 4 * inner
        for index in range(depth):
            macs += side**2 * (entering * inner + 9 * inner**2)
            if index == 0:
                side //= 2 if stage else 1
                macs += side**2 * entering * leaving
            macs += side**2 * inner * leaving
            entering = leaving
    width, length = config.features, 1 + config.grid**2  # of the attention pool: one query, all keys and values
    return macs + width * (width + 2 * length * width + 2 * length + embed_dim)


def _block(length: int, width: int, mlp_ratio: float) -> int:
    products = length * width * (4 * width + 2 * int(width * mlp_ratio))
    return products + 2 * length * length * width
