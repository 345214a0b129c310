"""Whether a config fits a pod, and how fast it would run there, before there is a pod: what `clip-jax plan` computes."""
