"""Training the weights Θ alone, the gates fixed or absent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from dnis_lightning.batch import Batch
from dnis_lightning.embedding.selection import SoftSelection
from dnis_lightning.lookup import gather, with_distinct
from dnis_lightning.measures import larger_is_better
from dnis_lightning.ranking import Query
from dnis_lightning.recommender import GATES, Prediction, Recommender
from dnis_lightning.tasks import Objective
from dnis_lightning.training.lazy_adam import LazyAdam

OptimizerFactory = Callable[[Iterable[nn.Parameter] | Iterable[dict[str, Any]]], Optimizer]


@dataclass(frozen=True)
class WeightStep:
    """How Θ moves: the optimizer, gradient clipping by norm, a learning rate lowered on plateaus of the select metric.

    by_row: the optimizer is a `LazyAdam`, and moves the rows of tables that a batch looks up.
    clip_norm: None for no clipping. plateau_patience: after more than so many epochs in a row without a select metric
    that is better by 0.01 % the rate is multiplied by plateau_factor; None keeps the rate. plateau_floor: a training
    has converged when plateaus have lowered the rate to this share of what it was; 0 = never.
    """

    optimizer: OptimizerFactory
    clip_norm: float | None = None
    plateau_factor: float = 0.5
    plateau_patience: int | None = None
    plateau_floor: float = 0.0
    by_row: bool = False


class FitModule(L.LightningModule):
    """Line 6 of Algorithm 1 alone. Optimisation is manual, as in the search, so that both share every step on Θ."""

    def __init__(
        self, recommender: Recommender, objective: Objective, step: WeightStep, *, tables_only: bool = False
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.recommender, self.objective, self.step = recommender, objective, step
        self.metrics = objective.task.metrics()
        self.sums: dict[str, Tensor] = {}
        self._choose_trainable(tables_only)

    @property
    def moves_gates(self) -> bool:
        """Whether α is not the same throughout."""
        return False

    @property
    def arrived(self) -> bool:
        """Whether this training has reached its end before `Stopping` says so."""
        return False

    @property
    def measured(self) -> Sequence[str]:
        """The names of the metrics on select."""
        return self.objective.task.measured

    @property
    def gates(self) -> Tensor | None:
        """α (L, K), or None where the model has no selection layer."""
        return self.recommender.gates

    def configure_optimizers(self) -> Any:
        """One optimizer for Θ, with its plateau schedule if there is one."""
        return self._with_schedule(self.step.optimizer(self.weight_groups()))

    def weight_groups(self) -> list[dict[str, Any]]:
        """Θ in the optimizer's groups: what is stepped by row, then all else that is trained."""
        dense = {"params": [p for p in self.recommender.parameters() if p.requires_grad]}
        return [{"params": self.recommender.tables(), "by_row": True}, dense] if self.step.by_row else [dense]

    def on_fit_start(self) -> None:
        """Gates that nothing moves need not be looked up, where all are open."""
        if isinstance(self.recommender.selection, SoftSelection):
            self.recommender.selection.rest(not self.moves_gates)

    def on_fit_end(self) -> None:
        """From here on others may move them."""
        if isinstance(self.recommender.selection, SoftSelection):
            self.recommender.selection.rest(False)

    def training_step(self, batch: dict[str, Batch], batch_idx: int) -> None:
        """One step on Θ."""
        self.descend_weights(batch["train"])

    def descend_weights(self, batch: Batch) -> None:
        """Θ ← Θ − η ∇_Θ L_train(Θ, α), as the optimizer takes it."""
        optimizer, lazy = self._weight_optimizer(), self.lazy
        if lazy is not None:
            (batch,) = self.with_distinct(batch)
        optimizer.zero_grad()
        loss = self.training_loss(self.recommender(batch, gather if lazy is None else lazy.gather), batch)
        # DDP averages over ranks what the global count already divides
        self.manual_backward(loss * self.trainer.world_size)
        if lazy is not None and self.trainer.world_size > 1:
            self._average_rows(lazy)
        if self.step.clip_norm is not None:
            dense = [p for p in self.recommender.parameters() if p.requires_grad]  # α has a gradient of its own
            torch.nn.utils.clip_grad_norm_(dense if lazy is None else dense + lazy.taken(), self.step.clip_norm)
        optimizer.step()
        self.add_up("train/loss", loss)

    def with_distinct(self, *batches: Batch) -> list[Batch]:
        """The batches with their distinct features: those of all of them, on all ranks."""
        return with_distinct(batches, self._of_all_ranks if self.trainer.world_size > 1 else None)

    @property
    def lazy(self) -> LazyAdam | None:
        """The optimizer, where it steps by row."""
        optimizer = self._weight_optimizer()
        optimizer = getattr(optimizer, "optimizer", optimizer)
        return optimizer if isinstance(optimizer, LazyAdam) else None

    def training_loss(self, prediction: Prediction, batch: Batch) -> Tensor:
        """The objective with L2, this rank's share."""
        loss: Tensor = self.objective(prediction, batch)
        return loss

    def validation_step(self, batch: Batch | Query, batch_idx: int) -> None:
        """Adds a batch of the select split to the metrics."""
        self.objective.task.assess(self.metrics, self.recommender, batch)

    def on_validation_epoch_start(self) -> None:
        """All rows come up to date, and features that no training row shows get the mean of their field."""
        self.settle()
        self.recommender.fill_unseen()

    def settle(self) -> None:
        """Bring rows that the last steps left alone to where they would be now."""
        if self.lazy is not None:
            self.lazy.settle()

    def on_validation_epoch_end(self) -> None:
        """Reports `select/…` and lowers the learning rate on a plateau."""
        values = self.metrics.compute()
        self.metrics.reset()
        self.log_dict({f"select/{name}": value for name, value in values.items()}, prog_bar=True, logger=False)
        schedule = self.lr_schedulers()  # manual optimisation: Lightning never steps it
        if isinstance(schedule, ReduceLROnPlateau):
            schedule.step(values[self.objective.task.monitor])

    @property
    def learning_rate(self) -> float:
        """The present step size of Θ."""
        return float(self._weight_optimizer().param_groups[0]["lr"])

    @property
    def least_learning_rate(self) -> float:
        """At which it has converged, by the share of the first one that the floor is; 0 = never."""
        return self.step.plateau_floor * float(self._weight_optimizer().defaults["lr"])

    def add_up(self, name: str, value: Tensor) -> None:
        """Sum a per-batch figure without waiting for the device; `epoch_means` reads it."""
        kept = self.sums.get(name)
        self.sums[name] = value.detach() if kept is None else kept + value.detach()

    def epoch_means(self) -> dict[str, float]:
        """The means over this epoch's batches of what was added up, over all ranks; starts anew."""
        batches = max(self.trainer.num_training_batches, 1)
        means = {
            name: float(self.trainer.strategy.reduce(total, reduce_op="sum")) / batches
            for name, total in self.sums.items()
        }
        self.sums = {}
        return means

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the sums of an unfinished epoch and the state of torch's random numbers."""
        checkpoint["sums"] = {name: total.cpu() for name, total in self.sums.items()}
        checkpoint["rng"] = torch.get_rng_state()
        if self.device.type == "cuda":
            checkpoint["cuda_rng"] = torch.cuda.get_rng_state(self.device)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes both back."""
        self.sums = {name: total.to(self.device) for name, total in checkpoint["sums"].items()}
        torch.set_rng_state(checkpoint["rng"])
        if self.device.type == "cuda" and "cuda_rng" in checkpoint:
            torch.cuda.set_rng_state(checkpoint["cuda_rng"], self.device)

    def _of_all_ranks(self, features: Tensor) -> Tensor:
        """Features (U,) of this rank and of all others, each once."""
        counts = [torch.zeros((), dtype=torch.int64, device=features.device) for _ in range(self.trainer.world_size)]
        torch.distributed.all_gather(counts, torch.tensor(len(features), device=features.device))
        most = max(int(count) for count in counts)
        padded = functional.pad(features, (0, most - len(features)))
        found = [torch.empty_like(padded) for _ in counts]
        torch.distributed.all_gather(found, padded)
        return torch.unique(torch.cat([one[: int(count)] for one, count in zip(found, counts, strict=True)]))

    def _average_rows(self, lazy: LazyAdam) -> None:
        """What DDP does for all other gradients."""
        for leaf in lazy.taken():
            leaf.grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            torch.distributed.all_reduce(leaf.grad)
            leaf.grad /= self.trainer.world_size

    def _weight_optimizer(self) -> Any:
        optimizers = self.optimizers()
        return optimizers[0] if isinstance(optimizers, list) else optimizers

    def _with_schedule(self, optimizer: Optimizer) -> dict[str, Any]:
        if self.step.plateau_patience is None:
            return {"optimizer": optimizer}
        better: Literal["min", "max"] = "max" if larger_is_better(self.objective.task.monitor) else "min"
        schedule = ReduceLROnPlateau(optimizer, better, self.step.plateau_factor, self.step.plateau_patience)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule}}

    def _choose_trainable(self, tables_only: bool) -> None:
        tables = {id(parameter) for parameter in self.recommender.tables()}
        for name, parameter in self.recommender.named_parameters():
            by_feature = id(parameter) in tables
            alone = by_feature and self.step.by_row  # a leaf of its rows has the gradient, and DDP leaves it alone
            parameter.requires_grad_(name != GATES and not alone and (by_feature or not tables_only))
