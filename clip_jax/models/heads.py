"""Attention heads made smaller: the nearest products of queries with keys, and of values with what reads them.

Of a head only two products matter, A = [W_q; b_q] [W_k; b_k]^T, of which its scores are made, and C = [W_v; b_v] W_o. A head
of size K' below K keeps their largest K' singular directions (Eckart & Young 1936), so that a head whose
products have rank K' is kept exactly; its first K' rows would be an arbitrary part of them.
"""

from collections.abc import Sequence

import numpy as np


def narrowed(
    kernel: np.ndarray, bias: np.ndarray, out: np.ndarray, size: int, turns: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Projections f32[D, 3, H, K], f32[3, H, K], f32[H, K, D] of (q, k, v) and out, with heads of `size`.

    turns: for each head, how many copies of it stand before: copy j has the same scores and the j-th `size` of the
    directions of C, so that together the copies do what one head of their added size would.
    """
    augmented = np.concatenate([kernel, bias[None]]).astype(np.float64)  # [D + 1, 3, H, K]
    full, heads = kernel.shape[-1], kernel.shape[2]
    qkv = np.zeros((*augmented.shape[:3], size))
    outs = np.zeros((heads, size, out.shape[-1]))
    score = (size / full) ** 0.25  # scores are divided by sqrt(K') now, no longer by sqrt(K)
    for head, turn in enumerate(turns):
        q, k, v = augmented[:, 0, head], augmented[:, 1, head], augmented[:, 2, head]
        left, right = _factors(q, k)
        qkv[:, 0, head], qkv[:, 1, head] = score * left[:, :size], score * right[:, :size]
        part = slice(turn * size, (turn + 1) * size)
        left, right = _factors(v, out[head].T.astype(np.float64))
        qkv[:, 2, head], outs[head] = left[:, part], right[:, part].T
    return qkv[:-1].astype(np.float32), qkv[-1].astype(np.float32), outs.astype(np.float32)


def _factors(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """L f64[n, K] and R f64[m, K] with L R^T = a b^T, orthogonal columns, the largest products first."""
    (basis_a, inner_a), (basis_b, inner_b) = np.linalg.qr(a), np.linalg.qr(b)
    u, values, v = np.linalg.svd(inner_a @ inner_b.T, full_matrices=False)
    return basis_a @ u * np.sqrt(values)[None], basis_b @ v.T * np.sqrt(values)[None]
