"""Puts a packed table in the place of an embedding: a search, a cut, and what trains on."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from dnis_lightning.blocks import make_blocks
from dnis_lightning.compression.cut import first_dimensions, single_entries
from dnis_lightning.compression.training import Loss, Training
from dnis_lightning.embedding.packed_table import PackedLookup
from dnis_lightning.embedding.selection import SoftSelection
from dnis_lightning.packed import PackedTable
from dnis_lightning.packed.layouts import LAYOUTS, LayoutName
from dnis_lightning.packed.values import STORED, DTypeName
from dnis_lightning.scheme import Scheme
from dnis_lightning.search.prune import most_entries

log = logging.getLogger(__name__)

Prune = Literal["prefix", "elements"]


class _Gated(nn.Module):
    """An embedding followed by gates (equation 4)."""

    def __init__(self, embedding: nn.Embedding, selection: SoftSelection) -> None:
        super().__init__()
        self.embedding, self.selection = embedding, selection

    def forward(self, input: Tensor) -> Tensor:  # by the name that nn.Embedding has for it
        rows: Tensor = self.selection(self.embedding(input), input)
        return rows


def compress(
    model: nn.Module,
    embedding: nn.Embedding,
    loss: Loss,
    train: Iterable[Any],
    held_out: Iterable[Any],
    *,
    rate: float = 10.0,
    prune: Prune = "prefix",
    search_epochs: int = 5,
    finetune_epochs: int = 3,
    blocks: int = 10,
    lr: float = 1e-3,
    gates_lr: float = 0.75,
    penalty: float = 0.1,
    dtype: DTypeName = "fp32",
    layout: LayoutName | None = None,
) -> PackedLookup:
    """Put a packed table in the place of an embedding of a trained model, and give it back.

    One search as in Algorithm 1, first order: the gates of `blocks` blocks of features of similar frequency learn on
    held_out, all weights on train, by Adam. Then entries go, as prune says, and all weights, but of the table only what
    is kept, train on for as long as held_out gains by it. The model is changed in place; it is in training mode
    meanwhile, and in evaluation mode with what is held out.

    loss: gives the mean loss of a batch, a scalar, as loss(model, batch). train, held_out: can be iterated over any
    number of times, as loaders can; batches are what `loss` takes. rate: N·K / kept, by count. prune: `prefix` turns
    the table onto its principal axes, and keeps the first dimensions of each feature, as many as move the loss most
    (see `first_dimensions`); the module multiplies them by these axes, which are at most K · K numbers more.
    `elements` keeps the single entries of largest magnitude (equation 9). lr: of the weights. gates_lr: of the gates'
    SGD, spread over the whole search. penalty: L1 on the gates, after equation 8. dtype, layout: see `PackedTable`;
    values are rounded at the end.
    Returns the module, which takes the features that the embedding took and gives rows; `module.packed().save(path)`
    writes it, `PackedLookup.load(path)` reads it. The losses on held_out are logged, at the level INFO.
    Raises ValueError for what cannot be compressed. After an exception of `loss` or a loader the embedding is where it
    was, with the weights that it has by then.
    """
    _check(embedding, rate, prune, dtype, layout, {"train": train, "held_out": held_out})
    _check_counts(blocks=(blocks, 1), search_epochs=(search_epochs, 0), finetune_epochs=(finetune_epochs, 0))
    _check_finite(lr=lr, gates_lr=gates_lr, penalty=penalty)
    places = _places_of(model, embedding)
    work = Training(model, loss, train, held_out, lr)
    if not math.isfinite(found := work.held_out_loss()):
        raise ValueError(f"the mean loss on held_out is {found}, expected a finite number; is the model trained?")
    log.info("held-out loss as it is: %.6g", found)
    device, modes = embedding.weight.device, [(module, module.training) for module in model.modules()]
    batches, counts = work.count(embedding)
    gated = _Gated(embedding, _selection(embedding, counts, blocks).to(device))
    places.put(gated)
    model.train()
    try:
        work.search(gated.selection, batches, search_epochs, gates_lr, penalty)
        moments = work.moments(gated, embedding.embedding_dim) if prune == "prefix" else None
        scheme = _cut(gated, rate, counts, moments)
        block_of = gated.selection.block_of.cpu().numpy()
        tuned = PackedLookup(scheme.packed(block_of, "fp32", "csr")).to(device)  # in dense, zeros would be trained
        places.put(tuned)
        work.fine_tune(finetune_epochs)
        module = _repacked(tuned, dtype, layout)
    except BaseException:
        places.put(embedding)
        raise
    finally:
        for one, mode in modes:
            one.training = mode
    places.put(module)
    return module.train(embedding.training)


def _selection(embedding: nn.Embedding, counts: Tensor, blocks: int) -> SoftSelection:
    """Gates of at most so many blocks of features that are looked up about as often."""
    fields = np.zeros(len(counts), dtype=np.int32)
    block_of = make_blocks(counts.numpy(), fields, blocks=min(blocks, len(counts))).block_of
    return SoftSelection(block_of, int(block_of.max()) + 1, embedding.embedding_dim)


def _cut(gated: _Gated, rate: float, counts: Tensor, moments: Tensor | None) -> Scheme:
    """What stays of the table with its gates merged in; moments: None where single entries go."""
    merged = gated.selection.merge(gated.embedding.weight.detach().clone())
    there = torch.ones_like(merged, dtype=torch.bool)
    if gated.embedding.padding_idx is not None:
        there[gated.embedding.padding_idx] = False
    kept = most_entries(merged.numel(), rate)
    if moments is None:
        return single_entries(merged, kept, there)
    return first_dimensions(merged, kept, there, counts, moments)


def _repacked(module: PackedLookup, dtype: DTypeName, layout: LayoutName | None) -> PackedLookup:
    """The same entries in another type and layout."""
    packed = module.packed()
    arrays = *packed.entries(), packed.dims
    made = PackedTable.of(*arrays, dtype=dtype, layout=layout, projections=packed.projections)
    return PackedLookup(made).to(module.values.device)


@dataclass(frozen=True)
class _Places:
    """Where a model has an embedding: modules, and the names it has there."""

    found: list[tuple[nn.Module, str]]

    def put(self, module: nn.Module) -> None:
        """Put a module there."""
        for parent, name in self.found:
            setattr(parent, name, module)


def _places_of(model: nn.Module, embedding: nn.Embedding) -> _Places:
    found = [
        (parent, name) for parent in model.modules() for name, child in parent._modules.items() if child is embedding
    ]
    if not found:
        raise ValueError("embedding is no part of model: give a module of it, as model.embedding")
    for other_name, other in model.named_modules():
        if other is not embedding and any(one is embedding.weight for one in other._parameters.values()):
            raise ValueError(
                f"{other_name} has the weight of embedding, too, and would keep it; give it one of its own"
            )
    return _Places(found)


def _check(
    embedding: nn.Embedding,
    rate: float,
    prune: str,
    dtype: str,
    layout: str | None,
    loaders: Mapping[str, Any],
) -> None:
    if not isinstance(embedding, nn.Embedding):
        raise ValueError(f"embedding is a {type(embedding).__name__}, expected an nn.Embedding")
    if not isinstance(rate, Real) or not 1 <= rate < math.inf:
        raise ValueError(f"rate is {rate!r}, expected 1 or more: entries before / entries kept")
    if most_entries(embedding.weight.numel(), rate) < 1:
        raise ValueError(f"rate is {rate}, which keeps none of {embedding.weight.numel()} entries")
    if embedding.weight.dtype != torch.float32:
        raise ValueError(f"embedding is {embedding.weight.dtype}, expected float32: model.float()")
    if prune not in get_args(Prune):
        raise ValueError(f"prune is {prune!r}, expected one of {', '.join(get_args(Prune))}")
    if dtype not in STORED:
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(STORED)}")
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}, expected None or one of {', '.join(LAYOUTS)}")
    if embedding.sparse:
        raise ValueError("embedding has sparse gradients, which Adam does not take; make it with sparse=False")
    if embedding.max_norm is not None:
        raise ValueError("embedding has a max_norm, which a packed table does not enforce; make it without")
    for name, loader in loaders.items():
        if isinstance(loader, Iterator):
            raise ValueError(f"{name} is an iterator, which gives its batches once; give a loader or a list")


def _check_counts(**given: tuple[int, int]) -> None:
    """Raise ValueError for a number that is none of things, or less than it may be."""
    for name, (number, least) in given.items():
        if not isinstance(number, Integral) or number < least:
            raise ValueError(f"{name} is {number!r}, expected a whole number, {least} or more")


def _check_finite(**given: float) -> None:
    """Raise ValueError for what is no finite number of 0 or more."""
    for name, number in given.items():
        if not isinstance(number, Real) or not 0 <= number < math.inf:
            raise ValueError(f"{name} is {number!r}, expected a finite number, 0 or more")
