"""The upper level of Algorithm 1: the gradient of the held-out loss with respect to the gates.

Θ are the weights, α the gates, ξ the look-ahead step. The paper prints ∇_α in the last factor of equation 7; the chain
rule gives ∇_{Θ'}, and so does this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dnis_lightning.batch import Batch
from dnis_lightning.lookup import Gather, gather
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
    peek: Gather | None = None,
) -> Tensor:
    """Equation 7: ∇_α L_val(Θ', α) − ξ ∇²_{α,Θ} L_train(Θ, α) · ∇_{Θ'} L_val(Θ', α), with Θ' = Θ − ξ ∇_Θ L_train(Θ, α).

    Θ' is one plain gradient step on the train batch; with ξ = 0 (first order) it is Θ and the second term vanishes.
    Weights that the search holds fixed (`requires_grad` is off) are no part of Θ, and stay where they are in Θ'.
    Dropout and batch statistics are frozen meanwhile. Returns (L, K). Raises AttributeError for a model without gates.

    peek: gives copies of rows of tables (`requires_grad` is off), which then are all that Θ has of them: no other row
    has a part in the result. Both batches need the same distinct features, on all ranks; with ξ = 0, held_out its own.
    """
    gates = model.get_parameter(GATES).detach().requires_grad_()
    with frozen(model), torch.enable_grad():
        if xi == 0:
            return reduce(_first_order(model, gates, held_out, held_out_loss, peek or gather))
        with torch.compiler.set_stance("force_eager"):  # compiled code has no second derivatives
            return _second_order(model, gates, train, held_out, train_loss, held_out_loss, xi, reduce, peek)


def normalise(gradient: Tensor, epsilon: float = 1e-7) -> Tensor:
    """Equation 8: each row of g (L, K) divided by its `scale`."""
    return gradient / scale(gradient, epsilon)


def scale(gradient: Tensor, epsilon: float = 1e-7) -> Tensor:
    """(L, 1) what equation 8 divides each row of g (L, K) by: the mean of its absolute values, plus ε."""
    return gradient.abs().mean(dim=1, keepdim=True) + epsilon


def _first_order(model: Recommender, gates: Tensor, held_out: Batch, loss: Loss, gather: Gather) -> Tensor:
    # detached: of leaves, autocast would have copies from before the last step
    weights = {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}
    value = loss(_predict(model, weights, gates, held_out, gather), held_out)
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
    peek: Gather | None,
) -> Tensor:
    weights = {name: p.detach().requires_grad_() for name, p in model.named_parameters() if p.requires_grad}
    rows: dict[Any, Tensor] = {}

    def looked_up(parameter: Tensor, features: Tensor) -> Tensor:
        if peek is None:
            return gather(parameter, features)
        if parameter not in rows:
            rows[parameter] = peek(parameter, features).detach().requires_grad_()
        return rows[parameter]

    value = train_loss(_predict(model, weights, gates, train, looked_up), train)
    moved: dict[Any, Tensor] = {**weights, **rows}
    local = torch.autograd.grad(value, list(moved.values()), create_graph=True, materialize_grads=True)

    # Θ' = Θ − ξ ∇_Θ L_train, the gradient summed over all ranks
    ahead = {
        name: weight.detach().sub(reduce(gradient.detach()), alpha=xi).requires_grad_()
        for (name, weight), gradient in zip(moved.items(), local, strict=True)
    }
    rows = {parameter: ahead[parameter] for parameter in rows}
    value = held_out_loss(_predict(model, {n: ahead[n] for n in weights}, gates, held_out, looked_up), held_out)
    direct, *vector = torch.autograd.grad(value, [gates, *ahead.values()], materialize_grads=True)

    # ∇²_{α,Θ} L_train · v as the gradient of ⟨∇_Θ L_train, v⟩: no matrix is ever built
    pairs = [pair for pair in zip(local, map(reduce, vector), strict=True) if pair[0].requires_grad]
    mixed = torch.autograd.grad([g for g, _ in pairs], gates, [v for _, v in pairs], materialize_grads=True)[0]
    return reduce(direct - xi * mixed)


def _predict(
    model: Recommender, weights: Mapping[str, Tensor], gates: Tensor, batch: Batch, gather: Gather
) -> Prediction:
    return functional_call(model, {**weights, GATES: gates}, (batch, gather))


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while: no dropout, and batch statistics are used but not moved."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
