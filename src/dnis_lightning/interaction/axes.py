"""The axes of a table on which a few dimensions hold most of it."""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS_AT_ONCE = 1 << 16


def principal_axes(table: Tensor, weights: Tensor) -> Tensor:
    """(K, K): the eigenvectors of Σ_i w_i e_i e_iᵀ of a table (N, K), w = weights (N,), in columns, largest first."""
    return torch.linalg.eigh(_second_moments(table, weights)).eigenvectors.flip(1).to(table)


def signed_axes(table: Tensor, weights: Tensor, signature: Tensor) -> tuple[Tensor, Tensor]:
    """For products Σ_k v_k e_{i,k} e_{j,k}, v = signature (K,): what to multiply rows by, (K, K), and the new v, ±1.

    The root of |v| goes into the rows; then those dimensions may be turned among each other whose v have one sign.
    Again the axis with the largest part comes first.
    """
    scaled = signature.abs().sqrt()
    moments = _second_moments(table * scaled, weights)
    axes, sizes, signs = [], [], []
    for sign in (1.0, -1.0):
        own = torch.where(signature < 0, -1.0, 1.0) == sign
        values, vectors = torch.linalg.eigh(moments[own][:, own])
        wide = torch.zeros(len(signature), len(values), dtype=moments.dtype, device=moments.device)
        wide[own] = vectors
        axes.append(wide)
        sizes.append(values)
        signs.append(torch.full_like(values, sign))
    order = torch.cat(sizes).argsort(descending=True)
    rotation = torch.cat(axes, dim=1)[:, order].to(table)
    return scaled[:, None] * rotation, torch.cat(signs)[order].to(table)


def _second_moments(table: Tensor, weights: Tensor) -> Tensor:
    """Σ_i w_i e_i e_iᵀ, (K, K) in double precision."""
    together = torch.zeros(table.shape[1], table.shape[1], dtype=torch.float64, device=table.device)
    for rows, own in zip(table.split(_ROWS_AT_ONCE), weights.split(_ROWS_AT_ONCE), strict=True):
        together += rows.double().T @ (rows.double() * own.to(rows.device).double()[:, None])
    return together
