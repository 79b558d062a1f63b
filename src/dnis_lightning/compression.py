"""Compresses an embedding of any trained torch model, without configuration and data sets of ours."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from dnis_lightning.blocks import make_blocks
from dnis_lightning.embedding.packed_table import PackedLookup
from dnis_lightning.embedding.selection import SoftSelection
from dnis_lightning.packed import PackedTable
from dnis_lightning.packed.layouts import LAYOUTS, LayoutName
from dnis_lightning.packed.values import STORED, DTypeName
from dnis_lightning.scheme import Scheme
from dnis_lightning.search.bilevel import frozen, normalise
from dnis_lightning.search.prune import largest, most_entries

log = logging.getLogger(__name__)

_NOTHING_HELD_OUT = "held_out has no batches, expected at least one"
Loss = Callable[[nn.Module, Any], Tensor]
"""The scalar loss of a model on a batch of one of the loaders."""


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
    held_out, all weights on train, by Adam. Then the entries of smallest magnitude go (equation 9), and all weights,
    but of the table only what is kept, train on for as long as held_out gains by it. The model is changed in place; it
    is in training mode meanwhile, and in evaluation mode with what is held out.

    loss: gives the mean loss of a batch, a scalar, as loss(model, batch). train, held_out: can be iterated over any
    number of times, as loaders can; batches are what `loss` takes. rate: N·K / kept, by count. lr: of the weights.
    gates_lr: of the gates' SGD, spread over the whole search. penalty: L1 on the gates, after equation 8. dtype,
    layout: see `PackedTable`; values are rounded at the end.
    Returns the module, which takes the features that the embedding took and gives rows; `module.packed().save(path)`
    writes it, `PackedLookup.load(path)` reads it. The losses on held_out are logged, at the level INFO.
    Raises ValueError for what cannot be compressed. After an exception of `loss` or a loader the embedding is where it
    was, with the weights that it has by then.
    """
    _check(embedding, rate, dtype, layout, {"train": train, "held_out": held_out})
    _check_counts(blocks=(blocks, 1), search_epochs=(search_epochs, 0), finetune_epochs=(finetune_epochs, 0))
    places = _places_of(model, embedding)
    work = _Training(model, loss, train, held_out, lr)
    log.info("held-out loss as it is: %.6g", work.held_out_loss())
    device, modes = embedding.weight.device, [(module, module.training) for module in model.modules()]
    batches, block_of = work.batches_and_blocks(embedding, blocks)
    selection = SoftSelection(block_of, int(block_of.max()) + 1, embedding.embedding_dim).to(device)
    places.put(_Gated(embedding, selection))
    model.train()
    try:
        work.search(selection, batches, search_epochs, gates_lr, penalty)
        scheme = _cut(embedding, selection, rate)
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


@dataclass
class _Training:
    """A model with its loaders, and what is done with both."""

    model: nn.Module
    loss: Loss
    train: Iterable[Any]
    held_out: Iterable[Any]
    lr: float

    def batches_and_blocks(self, embedding: nn.Embedding, blocks: int) -> tuple[int, np.ndarray]:
        """How many batches train has, and (N,) the block of each feature, by how often these look it up."""
        counts, batches = torch.zeros(embedding.num_embeddings, dtype=torch.int64), 0

        def count(module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            features = inputs[0] if inputs else named["input"]
            counts.add_(features.flatten().cpu().bincount(minlength=len(counts)))

        hook = embedding.register_forward_pre_hook(count, with_kwargs=True)
        try:
            with torch.no_grad(), frozen(self.model):
                for batch in tqdm(self.train, desc="counting", unit="batch", disable=None):
                    self.loss(self.model, batch)
                    batches += 1
        finally:
            hook.remove()
        if not counts.any():
            raise ValueError("no batch of train looks anything up in embedding; does loss call the model?")
        fields = np.zeros(len(counts), dtype=np.int32)
        return batches, make_blocks(counts.numpy(), fields, blocks=min(blocks, len(counts))).block_of

    def search(self, selection: SoftSelection, batches: int, epochs: int, gates_lr: float, penalty: float) -> None:
        """Lines 6 to 9 of Algorithm 1, for each batch of train with the next one of held_out; batches: of train."""
        optimizer, gates, others = self._optimizer(), selection.gates, self._endless()
        for epoch in range(epochs):
            for batch in tqdm(self.train, desc=f"search {epoch + 1}/{epochs}", unit="batch", disable=None):
                self._step(optimizer, batch)
                gradient = self._gates_gradient(gates, next(others))
                with torch.no_grad():
                    gates.sub_(normalise(gradient) + penalty, alpha=gates_lr / (epochs * batches))
                selection.clip()

    def fine_tune(self, epochs: int) -> None:
        """Train as long as the loss on held_out becomes smaller; the model ends with the weights of the best epoch."""
        optimizer, best, least = self._optimizer(), self._weights(), self.held_out_loss()
        log.info("held-out loss as it was cut: %.6g", least)
        for epoch in range(epochs):
            for batch in tqdm(self.train, desc=f"fine-tuning {epoch + 1}/{epochs}", unit="batch", disable=None):
                self._step(optimizer, batch)
            found = self.held_out_loss()
            log.info("held-out loss after epoch %d of fine-tuning: %.6g", epoch + 1, found)
            if not found < least:
                break
            best, least = self._weights(), found
        self.model.load_state_dict(best)

    def held_out_loss(self) -> float:
        """The mean over the batches of held_out, in evaluation mode."""
        with torch.no_grad(), frozen(self.model):
            losses = [float(self._loss(batch)) for batch in self.held_out]
        if not losses:
            raise ValueError(_NOTHING_HELD_OUT)
        if not math.isfinite(found := sum(losses) / len(losses)):
            raise ValueError(f"the mean loss on held_out is {found}, expected a finite number; is the model trained?")
        return found

    def _step(self, optimizer: torch.optim.Optimizer, batch: Any) -> None:
        optimizer.zero_grad()
        self._loss(batch).backward()
        optimizer.step()

    def _gates_gradient(self, gates: nn.Parameter, batch: Any) -> Tensor:
        """Equation 7 with ξ = 0, (L, K)."""
        gates.requires_grad_(True)
        try:
            with frozen(self.model):
                return torch.autograd.grad(self._loss(batch), gates)[0]
        finally:
            gates.requires_grad_(False)  # the weights' backward has nothing to do with them

    def _loss(self, batch: Any) -> Tensor:
        found = self.loss(self.model, batch)
        if found.numel() != 1:
            raise ValueError(f"loss gives {tuple(found.shape)}, expected one number: the mean of the batch")
        return found

    def _optimizer(self) -> torch.optim.Optimizer:
        trained = [one for one in self.model.parameters() if one.requires_grad]
        if not trained:
            raise ValueError("no weight of the model takes a gradient; set requires_grad of those that may be trained")
        return torch.optim.Adam(trained, self.lr)

    def _endless(self) -> Iterator[Any]:
        while True:
            found = False
            for batch in self.held_out:
                found = True
                yield batch
            if not found:
                raise ValueError(_NOTHING_HELD_OUT)

    def _weights(self) -> dict[str, Any]:
        return copy.deepcopy(self.model.state_dict())


def _cut(embedding: nn.Embedding, selection: SoftSelection, rate: float) -> Scheme:
    """Equation 9: the entries of largest magnitude of the table with its gates merged in."""
    merged = selection.merge(embedding.weight.detach().clone())
    there = torch.ones_like(merged, dtype=torch.bool)
    if embedding.padding_idx is not None:
        there[embedding.padding_idx] = False
    mask = largest(merged.clone(), most_entries(merged.numel(), rate), there)
    return Scheme.from_dense(merged.cpu().numpy(), mask.cpu().numpy())


def _repacked(module: PackedLookup, dtype: DTypeName, layout: LayoutName | None) -> PackedLookup:
    """The same entries in another type and layout."""
    packed = module.packed()
    made = PackedTable.of(*packed.entries(), packed.dims, dtype=dtype, layout=layout)
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
    dtype: str,
    layout: str | None,
    loaders: Mapping[str, Any],
) -> None:
    if not isinstance(embedding, nn.Embedding):
        raise ValueError(f"embedding is a {type(embedding).__name__}, expected an nn.Embedding")
    if not 1 <= rate < math.inf:
        raise ValueError(f"rate is {rate}, expected 1 or more: entries before / entries kept")
    if most_entries(embedding.weight.numel(), rate) < 1:
        raise ValueError(f"rate is {rate}, which keeps none of {embedding.weight.numel()} entries")
    if embedding.weight.dtype != torch.float32:
        raise ValueError(f"embedding is {embedding.weight.dtype}, expected float32: model.float()")
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
    """Raise ValueError for a number that is less than it may be."""
    for name, (number, least) in given.items():
        if number < least:
            raise ValueError(f"{name} is {number}, expected {least} or more")
