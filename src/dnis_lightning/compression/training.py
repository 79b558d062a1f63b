"""What is trained of a model while an embedding of it is compressed, and what its loss says of the rows."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dnis_lightning.embedding.selection import SoftSelection
from dnis_lightning.search.bilevel import frozen, normalise

log = logging.getLogger(__name__)

_NOTHING_HELD_OUT = "held_out has no batches, expected at least one"
Loss = Callable[[nn.Module, Any], Tensor]
"""The scalar loss of a model on a batch of one of the loaders."""


@dataclass
class Training:
    """A model with its loaders, and what is done with both."""

    model: nn.Module
    loss: Loss
    train: Iterable[Any]
    held_out: Iterable[Any]
    lr: float

    def count(self, embedding: nn.Embedding) -> tuple[int, Tensor]:
        """How many batches train has, and (N,) how often these look each feature up."""
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
        return batches, counts

    def search(self, selection: SoftSelection, batches: int, epochs: int, gates_lr: float, penalty: float) -> None:
        """Lines 6 to 9 of Algorithm 1, for each batch of train with the next one of held_out; batches: of train.

        Raises ValueError where that diverges; the weights are as they were then.
        """
        if not epochs:
            return
        optimizer, gates, others, before = self._optimizer(), selection.gates, self._endless(), self._weights()
        for epoch in range(epochs):
            for batch in tqdm(self.train, desc=f"search {epoch + 1}/{epochs}", unit="batch", disable=None):
                self._step(optimizer, batch)
                gradient = self._gates_gradient(gates, next(others))
                with torch.no_grad():
                    gates.sub_(normalise(gradient) + penalty, alpha=gates_lr / (epochs * batches))
                selection.clip()
        found = self.held_out_loss()
        if not math.isfinite(found):
            self.model.load_state_dict(before)
            raise ValueError(f"the search diverged: the mean loss on held_out is {found} after it; take a smaller lr")
        log.info("held-out loss after the search: %.6g", found)

    def moments(self, module: nn.Module, dims: int) -> Tensor:
        """(K, K) Σ g gᵀ in double precision, g the gradients of the losses on held_out by each row that module gives.

        dims: K. In evaluation mode, and on the CPU; 0 where no loss depends on a row. What is no finite number, as the
        slope of a norm at 0, counts as 0.
        """
        found: list[Tensor] = []

        def apart(module: nn.Module, inputs: tuple[Tensor, ...], rows: Tensor) -> Tensor:
            found.append(rows.detach().requires_grad_())
            return found[-1].clone()  # which the model may change in place

        total = torch.zeros(dims, dims, dtype=torch.float64)
        hook = module.register_forward_hook(apart)
        try:
            with frozen(self.model):
                for batch in self.held_out:
                    found.clear()
                    loss = self._loss(batch)
                    if not (found and loss.requires_grad):
                        continue
                    for gradient in torch.autograd.grad(loss, found, materialize_grads=True):
                        flat = gradient.reshape(-1, dims).float().nan_to_num(0.0, 0.0, 0.0)
                        total += (flat.T @ flat).cpu()
        finally:
            hook.remove()
        return total

    def fine_tune(self, epochs: int) -> None:
        """Train as long as the loss on held_out becomes smaller; the model ends with the weights of the best epoch."""
        optimizer, best, least = self._optimizer(), self._weights(), self.held_out_loss()
        if not math.isfinite(least):
            raise ValueError(f"the mean loss on held_out is {least} once the table is cut; take a smaller rate")
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
        return sum(losses) / len(losses)

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
        if not isinstance(found, Tensor):
            raise ValueError(f"loss gives a {type(found).__name__}, expected a tensor of one number, with its gradient")
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
        """A copy, on the CPU, with what modules say of their versions."""
        weights = self.model.state_dict()
        for name, one in weights.items():
            weights[name] = one.to("cpu", copy=True) if isinstance(one, Tensor) else copy.deepcopy(one)
        return weights
