"""Features looked up: rows of parameters, once for each distinct feature of a batch, and what is made of them.

Nothing here is of the size of the table. `take`, `bag` and `pairs` can be differentiated any number of times; their
derivatives are sums over lists of rows, which `torch.embedding_bag` has the fast kernels for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from dnis_lightning.batch import Batch, Distinct

Gather = Callable[[Tensor, Tensor], Tensor]
"""Gives rows (…, K) of a parameter (N, K) by their numbers (…)."""


def gather(parameter: Tensor, rows: Tensor) -> Tensor:
    """Rows of a parameter, whose gradient is as large as the parameter; summed in a fixed order, as `[]` does not."""
    return torch.embedding(parameter, rows)


class Deduplicator:
    """Finds the distinct features of batches on the CPU in time that goes with the batch; holds 4 bytes a feature."""

    def __init__(self, features: int) -> None:
        self._stamp = np.empty(features, dtype=np.int32)

    def __call__(self, batch: Batch) -> Batch:
        """The batch with its distinct features."""
        ids = batch.ids.numpy().ravel()
        order = np.arange(len(ids), dtype=np.int32)
        self._stamp[ids] = order
        last = self._stamp[ids]
        found = np.flatnonzero(last == order)
        number = np.empty(len(ids), dtype=np.int32)
        number[found] = np.arange(len(found), dtype=np.int32)
        return replace(batch, distinct=_ordered(torch.from_numpy(ids[found]), number[last], batch.ids.shape))


def with_distinct(batches: Sequence[Batch], of_all: Callable[[Tensor], Tensor] | None = None) -> list[Batch]:
    """The batches with the distinct features of all of them.

    of_all: gives the features of this rank and of all others. A batch that is alone keeps what it has.
    """
    if len(batches) == 1 and of_all is None and batches[0].distinct is not None:
        return list(batches)
    known = [batch.ids.flatten() if batch.distinct is None else batch.distinct.features for batch in batches]
    features = torch.unique(torch.cat(known))
    if of_all is not None:
        features = of_all(features)
    return [replace(batch, distinct=_placed(features, batch.ids)) for batch in batches]


def take(rows: Tensor, distinct: Distinct, dtype: torch.dtype | None = None) -> Tensor:
    """(B, C, K): the rows (U, K) of the distinct features at the places of the batch.

    dtype: the type of what is returned; the gradient is summed in that of the rows, which is the default.
    """
    return _Take.apply(rows, distinct, rows.dtype if dtype is None else dtype)


def bag(rows: Tensor, distinct: Distinct, weights: Tensor | None = None) -> Tensor:
    """(B, K): Σ_c weights_{b,c} · rows_{places_{b,c}}, of rows (U, K); weights (B, C) need no gradient; None = ones."""
    return _Bag.apply(rows, distinct, weights)


def pairs(rows: Tensor, distinct: Distinct, weights: Tensor | None = None) -> Tensor:
    """(B,): Σ_{c<d} ⟨x_{b,c}, x_{b,d}⟩ with x_{b,c} = weights_{b,c} · rows_{places_{b,c}}, of rows (U, K).

    weights (B, C) need no gradient; None = ones.
    """
    return _Pairs.apply(rows, distinct, weights)


class _Take(torch.autograd.Function):
    """(U, K) → (B, C, K); its transpose is `_Put`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, distinct: Distinct, dtype: torch.dtype) -> Tensor:
        ctx.distinct, ctx.dtype = distinct, rows.dtype
        return torch.embedding(rows.to(dtype), distinct.places)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Any:
        return _Put.apply(gradient[0], ctx.distinct, ctx.dtype), None, None


class _Put(torch.autograd.Function):
    """(B, C, K) → (U, K): the sum over where each feature stands."""

    @staticmethod
    def forward(ctx: Any, each: Tensor, distinct: Distinct, dtype: torch.dtype) -> Tensor:
        ctx.distinct, ctx.dtype = distinct, each.dtype
        return _summed(each.flatten(0, 1).to(dtype), distinct.order, distinct.starts, None)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Any:
        return _Take.apply(gradient[0], ctx.distinct, ctx.dtype), None, None


class _Bag(torch.autograd.Function):
    """(U, K) → (B, K); its transpose is `_Spread`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, distinct: Distinct, weights: Tensor | None) -> Tensor:
        ctx.distinct, ctx.weights = distinct, weights
        count, columns = distinct.places.shape
        places = distinct.places.flatten()
        starts = torch.arange(0, count * columns, columns, device=rows.device, dtype=places.dtype)
        return _summed(rows, places, starts, None if weights is None else weights.flatten())

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Any:
        return _Spread.apply(gradient[0], ctx.distinct, ctx.weights), None, None


class _Spread(torch.autograd.Function):
    """(B, K) → (U, K): for each feature the sum over the rows of the batch that it is in, times its weight there."""

    @staticmethod
    def forward(ctx: Any, bags: Tensor, distinct: Distinct, weights: Tensor | None) -> Tensor:
        ctx.distinct, ctx.weights = distinct, weights
        by_feature = None if weights is None else weights.flatten().index_select(0, distinct.order)
        return _summed(bags, distinct.rows_in_order, distinct.starts, by_feature)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Any:
        return _Bag.apply(gradient[0], ctx.distinct, ctx.weights), None, None


class _Pairs(torch.autograd.Function):
    """(U, K) → (B,), a quadratic form: of two columns the product, else by Rendle 2010, lemma 3.1."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, distinct: Distinct, weights: Tensor | None) -> Tensor:
        ctx.distinct, ctx.weights = distinct, weights
        ctx.save_for_backward(rows)
        if distinct.places.shape[1] == 2:
            one, other = torch.embedding(rows, distinct.places).unbind(1)
            products = (one * other).sum(-1)
            return products if weights is None else products * weights.prod(1)
        squares = bag(rows.square().sum(-1, keepdim=True), distinct, _squared(weights)).squeeze(-1)
        return 0.5 * (bag(rows, distinct, weights).square().sum(-1) - squares)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Any:
        return _Across.apply(*ctx.saved_tensors, gradient[0], ctx.distinct, ctx.weights), None, None


class _Across(torch.autograd.Function):
    """(U, K), (B,) → (U, K): for each feature the sum over its places (b, c) of g_b w_{b,c} Σ_{d≠c} x_{b,d}."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, factors: Tensor, distinct: Distinct, weights: Tensor | None) -> Tensor:
        ctx.distinct, ctx.weights = distinct, weights
        ctx.save_for_backward(rows, factors)
        order, starts = distinct.order, distinct.starts
        if distinct.places.shape[1] == 2:
            others = distinct.places.flip(1).flatten().index_select(0, order)
            factors = factors if weights is None else factors * weights.prod(1)
            return _summed(rows, others.to(order.dtype), starts, factors.index_select(0, distinct.rows_in_order))
        sums = bag(rows, distinct, weights) * factors.unsqueeze(-1)
        own = _Spread.apply(factors.unsqueeze(-1), distinct, _squared(weights))
        return _Spread.apply(sums, distinct, weights).addcmul_(rows, own, value=-1)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Any:
        (rows, factors), (distinct, weights), by = ctx.saved_tensors, (ctx.distinct, ctx.weights), gradient[0]
        sums = (bag(by, distinct, weights) * bag(rows, distinct, weights)).sum(-1)
        own = bag((by * rows).sum(-1, keepdim=True), distinct, _squared(weights)).squeeze(-1)
        return _Across.apply(by, factors, distinct, weights), sums - own, None, None


def _squared(weights: Tensor | None) -> Tensor | None:
    return None if weights is None else weights.square()


def _summed(rows: Tensor, places: Tensor, starts: Tensor, weights: Tensor | None) -> Tensor:
    """(lists, K): the sums of lists of rows; all places one after the other, and where each list starts."""
    if not rows.shape[1] or not len(starts):
        return rows.new_zeros(len(starts), rows.shape[1])
    factors = None if weights is None else weights.to(rows.dtype)
    return torch.embedding_bag(rows.contiguous(), places, starts, False, 0, False, factors)[0]


def _placed(features: Tensor, ids: Tensor) -> Distinct:
    """The places of ids (B, C) among ascending features."""
    places = torch.searchsorted(features, ids, out_int32=True)
    if ids.device.type == "cpu":
        return _ordered(features, places.numpy().ravel(), ids.shape)
    flat = places.flatten()
    counts = flat.bincount(minlength=len(features))
    return Distinct(features, places, flat.argsort(stable=True), counts.cumsum(0) - counts)


def _ordered(features: Tensor, places: np.ndarray, shape: torch.Size) -> Distinct:
    """The same with the order of the places: a counting sort, which SciPy has as a transposition."""
    rows = np.arange(len(places) + 1, dtype=np.int32)
    sparse = csr_matrix((np.ones(len(places), np.int8), places, rows), shape=(len(places), len(features))).tocsc()
    order, starts = (torch.from_numpy(array) for array in (sparse.indices, sparse.indptr[:-1]))
    return Distinct(features, torch.from_numpy(places).view(shape), order, starts)
