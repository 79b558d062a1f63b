"""Training the weights Θ alone, the gates fixed or absent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from dnis_lightning.batch import Batch
from dnis_lightning.recommender import GATES, Prediction, Recommender
from dnis_lightning.tasks import Objective

OptimizerFactory = Callable[[Iterable[nn.Parameter] | Iterable[dict[str, Any]]], Optimizer]


@dataclass(frozen=True)
class WeightStep:
    """How Θ moves: the optimizer, gradient clipping by norm, a learning rate lowered on plateaus of the select metric.

    clip_norm: None for no clipping. plateau_patience: after more than so many epochs in a row without a better select
    metric the rate is multiplied by plateau_factor; None keeps the rate.
    """

    optimizer: OptimizerFactory
    clip_norm: float | None = None
    plateau_factor: float = 0.5
    plateau_patience: int | None = None


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
    def arrived(self) -> bool:
        """Whether this training has reached its end before `Stopping` says so."""
        return False

    @property
    def gates(self) -> Tensor | None:
        """α (L, K), or None where the model has no selection layer."""
        return self.recommender.gates

    def configure_optimizers(self) -> Any:
        """One optimizer for Θ, with its plateau schedule if there is one."""
        optimizer = self.step.optimizer([p for p in self.recommender.parameters() if p.requires_grad])
        return self._with_schedule(optimizer)

    def training_step(self, batch: dict[str, Batch], batch_idx: int) -> None:
        """One step on Θ."""
        self.descend_weights(batch["train"])

    def descend_weights(self, batch: Batch) -> None:
        """Θ ← Θ − η ∇_Θ L_train(Θ, α), as the optimizer takes it."""
        optimizer = self._weight_optimizer()
        loss = self.training_loss(self.recommender(batch), batch)
        optimizer.zero_grad()
        self.manual_backward(
            loss * self.trainer.world_size
        )  # DDP averages over ranks what the global count already divides
        if self.step.clip_norm is not None:
            self.clip_gradients(optimizer, self.step.clip_norm, "norm")
        optimizer.step()
        self.add_up("train/loss", loss)

    def training_loss(self, prediction: Prediction, batch: Batch) -> Tensor:
        """The objective with L2, this rank's share."""
        logits, rows, terms, net = prediction
        return self.objective(logits, batch.label, rows, terms, batch.global_size, net)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch of the select split to the metrics."""
        if batch.size:
            self.metrics.update(self.recommender(batch).logits.float(), batch.label)

    def on_validation_epoch_start(self) -> None:
        """Features that no training row shows get the mean of their field."""
        self.recommender.fill_unseen()

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

    def _weight_optimizer(self) -> Any:
        optimizers = self.optimizers()
        return optimizers[0] if isinstance(optimizers, list) else optimizers

    def _with_schedule(self, optimizer: Optimizer) -> dict[str, Any]:
        if self.step.plateau_patience is None:
            return {"optimizer": optimizer}
        schedule = ReduceLROnPlateau(optimizer, factor=self.step.plateau_factor, patience=self.step.plateau_patience)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule}}

    def _choose_trainable(self, tables_only: bool) -> None:
        tables = {id(parameter) for parameter in self.recommender.tables()}
        for name, parameter in self.recommender.named_parameters():
            parameter.requires_grad_(name != GATES and (not tables_only or id(parameter) in tables))
