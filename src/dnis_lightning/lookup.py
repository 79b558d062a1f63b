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
from torch import Tensor

from dnis_lightning.batch import Batch, Distinct

Gather = Callable[[Tensor, Tensor], Tensor]
"""Gives rows (…, K) of a parameter (N, K) by their numbers (…)."""


def gather(parameter: Tensor, rows: Tensor) -> Tensor:
    """Rows of a parameter, whose gradient is as large as the parameter; summed in a fixed order, as `[]` does not."""
    return torch.embedding(parameter, rows)


def find_distinct(batch: Batch) -> Batch:
    """The batch with its distinct features, which are worked out on the CPU."""
    ids, order = _sorted(batch.ids.cpu().numpy().ravel())
    first = np.ones(len(ids), dtype=bool)
    np.not_equal(ids[1:], ids[:-1], out=first[1:])
    starts = np.flatnonzero(first)
    counts = np.append(starts, len(ids))[1:] - starts
    places = np.empty(len(ids), dtype=np.int32)
    places[order] = np.repeat(np.arange(len(starts), dtype=np.int32), counts)
    found = ids[starts], places.reshape(batch.ids.shape), order.astype(np.int32), starts.astype(np.int32)
    return replace(batch, distinct=Distinct(*(torch.from_numpy(array).to(batch.ids.device) for array in found)))


def with_distinct(batches: Sequence[Batch], of_all: Callable[[Tensor], Tensor] | None = None) -> list[Batch]:
    """The batches with the distinct features of all of them.

    of_all: gives the features of this rank and of all others, ascending, too.
    """
    found = [batch if batch.distinct else find_distinct(batch) for batch in batches]
    if len(found) == 1 and of_all is None:
        return found
    each = [batch.distinct for batch in found if batch.distinct]
    features = torch.unique(torch.cat([distinct.features for distinct in each]))
    if of_all is not None:
        features = of_all(features)
    return [replace(batch, distinct=_among(features, one)) for batch, one in zip(found, each, strict=True)]


def take(rows: Tensor, distinct: Distinct, dtype: torch.dtype | None = None) -> Tensor:
    """(B, C, K): the rows (U, K) of the distinct features at the places of the batch.

    dtype: the type of what is returned; the gradient is summed in that of the rows, which is the default.
    """
    return _Take.apply(rows, distinct, rows.dtype if dtype is None else dtype)


def bag(rows: Tensor, distinct: Distinct, weights: Tensor | None = None) -> Tensor:
    """(B, K): Σ_c weights_{b,c} · rows_{places_{b,c}}, of rows (U, K); weights (B, C) need no gradient; None = ones."""
    return _Bag.apply(rows, distinct, weights, False)


def pairs(rows: Tensor, distinct: Distinct, weights: Tensor | None = None) -> Tensor:
    """(B,): Σ_{c<d} ⟨x_{b,c}, x_{b,d}⟩ with x_{b,c} = weights_{b,c} · rows_{places_{b,c}}, of rows (U, K).

    weights (B, C) need no gradient; None = ones.
    """
    return _Pairs.apply(rows, distinct, weights)


def sum_by(numbers: Tensor, rows: Tensor, count: int) -> Tensor:
    """(count, K): the sums of the rows (U, K) of each number 0 … count − 1, which `numbers` (U,) has of each."""
    if numbers.device.type != "cpu":  # torch's own derivative of a lookup, which cuts long lists into pieces
        return torch.ops.aten.embedding_dense_backward(rows, numbers, count, -1, False)
    ascending, order = _sorted(numbers.numpy())
    starts = np.searchsorted(ascending, np.arange(count))
    return _summed(rows, torch.from_numpy(order), torch.from_numpy(starts), None)


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
    """(U, K) → (B, K), by weights or their squares; its transpose is `_Spread`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, distinct: Distinct, weights: Tensor | None, squared: bool) -> Tensor:
        ctx.of = distinct, weights, squared
        count, columns = distinct.places.shape
        places = distinct.places.flatten()
        starts = torch.arange(0, count * columns, columns, device=rows.device, dtype=places.dtype)
        return _summed(rows, places, starts, None if weights is None else weights.flatten(), squared=squared)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Any:
        return _Spread.apply(gradient[0], *ctx.of), None, None, None


class _Spread(torch.autograd.Function):
    """(B, K) → (U, K): for each feature the sum over the rows of the batch that it is in, times its weight there."""

    @staticmethod
    def forward(ctx: Any, bags: Tensor, distinct: Distinct, weights: Tensor | None, squared: bool) -> Tensor:
        ctx.of = distinct, weights, squared
        by_feature = None if weights is None else distinct.in_order(weights)
        return _summed(bags, distinct.rows_in_order, distinct.starts, by_feature, squared=squared)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Any:
        return _Bag.apply(gradient[0], *ctx.of), None, None, None


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
        sums = ctx.sums = bag(rows, distinct, weights)
        squares = _Bag.apply(_square(rows), distinct, weights, True).squeeze(-1)
        return 0.5 * (_square(sums).squeeze(-1) - squares)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Any:
        sums = getattr(ctx, "sums", None)
        return _Across.apply(*ctx.saved_tensors, gradient[0], sums, ctx.distinct, ctx.weights), None, None


class _Across(torch.autograd.Function):
    """(U, K), (B,) → (U, K): for each feature the sum over its places (b, c) of g_b w_{b,c} Σ_{d≠c} x_{b,d}.

    sums (B, K): Σ_c x_{b,c}, where they are known.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, factors: Tensor, sums: Tensor | None, distinct: Distinct, weights: Tensor | None
    ) -> Tensor:
        ctx.distinct, ctx.weights = distinct, weights
        ctx.save_for_backward(rows, factors)
        order, starts = distinct.order, distinct.starts
        if distinct.places.shape[1] == 2:
            others = distinct.places.flip(1).flatten().index_select(0, order)
            factors = factors if weights is None else factors * weights.prod(1)
            return _summed(rows, others, starts, factors.index_select(0, distinct.rows_in_order))
        sums = (bag(rows, distinct, weights) if sums is None else sums) * factors.unsqueeze(-1)
        own = _Spread.apply(factors.unsqueeze(-1), distinct, weights, True)
        return _Spread.apply(sums, distinct, weights, False).addcmul_(rows, own, value=-1)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Any:
        (rows, factors), (distinct, weights), by = ctx.saved_tensors, (ctx.distinct, ctx.weights), gradient[0]
        sums = (bag(by, distinct, weights) * bag(rows, distinct, weights)).sum(-1)
        own = _Bag.apply((by * rows).sum(-1, keepdim=True), distinct, weights, True).squeeze(-1)
        return _Across.apply(by, factors, None, distinct, weights), sums - own, None, None, None


def _square(rows: Tensor) -> Tensor:
    """(…, 1): ‖row‖² of rows (…, K), which nothing of their size is made for."""
    return torch.linalg.vector_norm(rows, dim=-1, keepdim=True).square_()


def _summed(rows: Tensor, places: Tensor, starts: Tensor, weights: Tensor | None, *, squared: bool = False) -> Tensor:
    """(lists, K): the sums of lists of rows; all places one after the other, and where each list starts.

    weights: of the places, to be `squared` first or not; None = ones.
    """
    if not rows.shape[1] or not len(starts):
        return rows.new_zeros(len(starts), rows.shape[1])
    if weights is not None:
        weights = (weights.square() if squared else weights).to(rows.dtype)
    return torch.embedding_bag(rows.contiguous(), places, starts, False, 0, False, weights)[0]


def _sorted(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids (n,) in ascending order, and where each was; equal ones stay in their order."""
    bits = len(ids).bit_length()  # plain integers are sorted several times as fast as pairs
    keys = np.left_shift(ids, bits, dtype=np.int64)
    keys |= np.arange(len(ids))
    keys.sort()
    return keys >> bits, keys & ((1 << bits) - 1)


def _among(features: Tensor, own: Distinct) -> Distinct:
    """The same places among ascending features that its own are a part of."""
    places = torch.searchsorted(features, own.features, out_int32=True)[own.places]
    ends = torch.cat([own.starts, own.starts.new_full((1,), len(own.order))])
    return Distinct(features, places, own.order, ends[torch.searchsorted(own.features, features)])
