"""clip_jax: pretrain CLIP in JAX, and distil it. `import clip_jax` starts no device and imports no framework."""

__version__ = "0.1.0"
