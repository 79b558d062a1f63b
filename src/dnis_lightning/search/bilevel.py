"""The upper level of Algorithm 1: the gradient of the held-out loss with respect to the gates.

Θ are the weights, α the gates, ξ the look-ahead step. The paper prints ∇_α in the last factor of equation 7; the chain
rule gives ∇_{Θ'}, and so does this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dnis_lightning.batch import Batch
from dnis_lightning.recommender import GATES, Prediction, Recommender

Loss = Callable[[Prediction, Batch], Tensor]
"""A scalar loss of a prediction on a batch."""

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all ranks; the identity where there is one."""


def hypergradient(
    model: Recommender,
    *,
    train: Batch,
    held_out: Batch,
    train_loss: Loss,
    held_out_loss: Loss,
    xi: float,
    reduce: Reduce = lambda tensor: tensor,
) -> Tensor:
    """Equation 7: ∇_α L_val(Θ', α) − ξ ∇²_{α,Θ} L_train(Θ, α) · ∇_{Θ'} L_val(Θ', α), with Θ' = Θ − ξ ∇_Θ L_train(Θ, α).

    Θ' is one plain gradient step on the train batch; with ξ = 0 (first order) it is Θ and the second term vanishes.
    Weights that the search holds fixed (`requires_grad` is off) are no part of Θ, and stay where they are in Θ'.
    Dropout and batch statistics are frozen meanwhile. Returns (L, K). Raises AttributeError for a model without gates.
    """
    gates = model.get_parameter(GATES).detach().requires_grad_()
    with frozen(model), torch.enable_grad():
        if xi == 0:
            return reduce(_first_order(model, gates, held_out, held_out_loss))
        return _second_order(model, gates, train, held_out, train_loss, held_out_loss, xi, reduce)


def normalise(gradient: Tensor, epsilon: float = 1e-7) -> Tensor:
    """Equation 8: each row of g (L, K) divided by the mean of its absolute values, plus ε."""
    return gradient / (gradient.abs().mean(dim=1, keepdim=True) + epsilon)


def _first_order(model: Recommender, gates: Tensor, held_out: Batch, loss: Loss) -> Tensor:
    weights = {name: weight.detach() for name, weight in model.named_parameters() if name != GATES}
    value = loss(_predict(model, weights, gates, held_out), held_out)
    return torch.autograd.grad(value, gates)[0]


def _second_order(
    model: Recommender,
    gates: Tensor,
    train: Batch,
    held_out: Batch,
    train_loss: Loss,
    held_out_loss: Loss,
    xi: float,
    reduce: Reduce,
) -> Tensor:
    held = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad and name != GATES}
    weights = {name: p.detach().requires_grad_() for name, p in model.named_parameters() if p.requires_grad}
    value = train_loss(_predict(model, held | weights, gates, train), train)
    local = torch.autograd.grad(value, list(weights.values()), create_graph=True, materialize_grads=True)

    # Θ' = Θ − ξ ∇_Θ L_train, the gradient summed over all ranks
    ahead = {
        name: (weight - xi * reduce(gradient.detach())).detach().requires_grad_()
        for (name, weight), gradient in zip(weights.items(), local, strict=True)
    }
    value = held_out_loss(_predict(model, held | ahead, gates, held_out), held_out)
    direct, *vector = torch.autograd.grad(value, [gates, *ahead.values()], materialize_grads=True)

    # ∇²_{α,Θ} L_train · v as the gradient of ⟨∇_Θ L_train, v⟩: no matrix is ever built
    product = sum((gradient * reduce(v)).sum() for gradient, v in zip(local, vector, strict=True))
    mixed = torch.autograd.grad(product, gates, materialize_grads=True)[0]  # type: ignore[arg-type]
    return reduce(direct - xi * mixed)


def _predict(model: Recommender, weights: Mapping[str, Tensor], gates: Tensor, batch: Batch) -> Prediction:
    return functional_call(model, {**weights, GATES: gates}, (batch,))


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while: no dropout, and batch statistics are used but not moved."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
