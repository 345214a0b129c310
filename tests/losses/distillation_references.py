"""The losses between student and teacher in float64 NumPy, from their formulas; no gradients."""

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits - logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def kl(target: np.ndarray, own: np.ndarray) -> float:
    """Mean over rows of KL(softmax(target) // softmax(own))."""
    return float((softmax(target) * (log_softmax(target) - log_softmax(own))).sum() / len(own))


def cross_entropy(logits: np.ndarray) -> float:
    """Mean row cross-entropy against labels 0..N-1."""
    return float(-np.trace(log_softmax(logits)) / len(logits))


def crd(x, y, s, tx, ty, ts):
    return (kl(ts * tx @ ty.T, s * x @ y.T) + kl(ts * ty @ tx.T, s * y @ x.T)) / 2


def icl(x, y, k, tx, ty):
    return (cross_entropy(k * x @ ty.T) + cross_entropy(k * y @ tx.T)) / 2


def cross_kd(x, y, k, tx, ty, ts):
    return (kl(ts * tx @ ty.T, k * x @ ty.T) + kl(ts * ty @ tx.T, k * y @ tx.T)) / 2


def mixture(x, y, s, teachers, weights):
    """Soft cross-entropy both ways against the weighted mean of (image, text, scale)'s softmaxes."""
    over_texts = np.average([softmax(ts * tx @ ty.T) for tx, ty, ts in teachers], axis=0, weights=weights)
    over_images = np.average([softmax(ts * ty @ tx.T) for tx, ty, ts in teachers], axis=0, weights=weights)
    total = over_texts * log_softmax(s * x @ y.T) + over_images * log_softmax(s * y @ x.T)
    return -total.sum() / (2 * len(x))


def affinity(x, y, s, tx, ty, ts):
    return mixture(x, y, s, [(tx, ty, ts)], [1])


def reinforcement(x, y, s, tx, ty, ts, ux, uy, us):
    """By two teachers, the second of three times the weight."""
    return mixture(x, y, s, [(tx, ty, ts), (ux, uy, us)], [1, 3])


def sigmoid_distillation(x, y, s, b, tx, ty, ts, tb):
    own, target = s * x @ y.T + b, ts * tx @ ty.T + tb
    q = np.exp(-np.logaddexp(0, -target))
    return (q * np.logaddexp(0, -own) + (1 - q) * np.logaddexp(0, own)).sum() / len(x)


def pulls(p, k, s):
    """Gradients of CE(s p k') in p and k, the second by a tensor of N x N x D, as the official code takes it."""
    count = len(p)
    surplus = softmax(s * p @ k.T) - np.eye(count)
    return s * surplus @ k / count, s * (surplus[:, :, None] * p[:, None, :]).sum(0) / count


def gd(x, y, s, tx, ty, ts):
    own = *pulls(x, y, s), *pulls(y, x, s)
    target = *pulls(tx, ty, ts), *pulls(ty, tx, ts)
    return sum(((g - t) ** 2).mean() for g, t in zip(own, target, strict=True))


def afd(x, y, f, tx, ty, wx, wy):
    v, u = np.concatenate([x, tx], 1) @ wx, np.concatenate([y, ty], 1) @ wy
    v, u = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (v, u))
    return (cross_entropy(f * v @ u.T) + cross_entropy(f * u @ v.T)) / 2


def image_mse(x, tx):
    return np.linalg.norm(x - tx) ** 2 / x.size


def image_l1(x, tx):
    return np.abs(x - tx).mean()


def image_cosine(x, tx):
    """1 - cos of vectors of any length."""
    return float(np.mean(1 - (x * tx).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(tx, axis=1))))


def fd(x, y, tx, ty):
    return image_mse(x, tx) + image_mse(y, ty)


def fd_cosine(x, y, tx, ty):
    return image_cosine(x, tx) + image_cosine(y, ty)
