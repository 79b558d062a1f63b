"""Which entries of a table stay, where nothing is known of the model but the gradients of its loss."""

from __future__ import annotations

import torch
from torch import Tensor

from dnis_lightning.embedding.table import turned_back
from dnis_lightning.interaction.axes import principal_axes
from dnis_lightning.scheme import Scheme
from dnis_lightning.search.importance import LEAST_COUNT
from dnis_lightning.search.prune import best_prefixes, largest, prices


def single_entries(table: Tensor, kept: int, there: Tensor) -> Scheme:
    """Equation 9: the `kept` entries of a table (N, K) of largest magnitude, of those that are there, (N, K) bool."""
    mask = largest(table.clone(), kept, there)
    return Scheme.from_dense(table.cpu().numpy(), mask.cpu().numpy())


def first_dimensions(table: Tensor, kept: int, there: Tensor, counts: Tensor, moments: Tensor) -> Scheme:
    """The first dimensions of each row of a table (N, K) on its principal axes, no more than `kept` entries in all.

    The rows are z_i = Vᵀ e_i, with the axes V of Σ_i n_i e_i e_iᵀ. Those lengths of rows are taken that keep the most
    of Σ_i n_i Σ_j g_j z_{i,j}², with g the diagonal of Vᵀ G V: to first order how far the losses move without an entry,
    squared and summed. What comes back has the transpose of the axes that are used as the projection of all features.

    there (N, K) bool: whole rows. counts (N,): n, how often features are looked up. moments (K, K): G, as
    `Training.moments` gives it; all axes count alike where it is 0.
    """
    expected = counts.to(table).clamp(min=LEAST_COUNT)
    axes = principal_axes(table, expected)
    sensitivity = ((moments.to(axes) @ axes) * axes).sum(0).clamp(min=0)
    if not sensitivity.any():
        sensitivity = torch.ones_like(sensitivity)
    turned = table @ axes
    mask = best_prefixes(prices(turned * expected.sqrt()[:, None] * sensitivity.sqrt(), there), kept, there)
    return Scheme.from_dense(turned.cpu().numpy(), mask.cpu().numpy(), turned_back(axes.T, mask))
