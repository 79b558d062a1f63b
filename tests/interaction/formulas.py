"""Formulas written anew in loops and numpy, that the models are held against."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from torch import nn

from dnis_lightning.batch import Batch
from dnis_lightning.interaction.tower import Tower


def nothing(rows: int) -> Batch:
    """A batch whose ids tell nothing."""
    return Batch(torch.zeros(rows, 1, dtype=torch.int64), torch.zeros(rows))


def settle(model: nn.Module) -> nn.Module:
    """The model in evaluation mode, its biases and batch statistics moved away from where they start."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 1:
            tensor.data.uniform_(0.2, 0.9)
    return model.eval()


def array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def affine(layer: nn.Module, x: np.ndarray) -> np.ndarray:
    """Σ_j W_{ij} x_j + b_i of one row, by loops."""
    weight = array(layer.weight)
    bias = np.zeros(len(weight)) if layer.bias is None else array(layer.bias)
    return np.array([sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)])


def tower(module: Tower, x: np.ndarray) -> np.ndarray:
    """What a tower in evaluation mode makes of one row."""
    for layer in module.layers:
        if hasattr(layer, "running_mean"):
            spread = np.sqrt(array(layer.running_var) + layer.eps)
            x = (x - array(layer.running_mean)) / spread * array(layer.weight) + array(layer.bias)
        elif hasattr(layer, "weight"):
            x = affine(layer, x)
        elif isinstance(layer, nn.ReLU):
            x = np.where(x > 0, x, 0)
    return x


def pairwise_sum(rows: np.ndarray) -> np.ndarray:
    """Σ_{f<g} Σ_k e_{f,k} e_{g,k} by loops."""
    return np.array([sum(float(e[f] @ e[g]) for f, g in combinations(range(len(e)), 2)) for e in rows])
