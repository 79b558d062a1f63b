"""Algorithm 1: weights and gates in turn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dnis_lightning.batch import Batch
from dnis_lightning.embedding.selection import SoftSelection
from dnis_lightning.lookup import with_distinct
from dnis_lightning.recommender import Prediction, Recommender
from dnis_lightning.search.bilevel import hypergradient, normalise, scale
from dnis_lightning.search.diagnosis import Pushes
from dnis_lightning.search.trial import GateStep
from dnis_lightning.tasks import Objective
from dnis_lightning.training.fit_module import FitModule, WeightStep


class SearchModule(FitModule):
    """One step on the weights Θ with a train batch, then one on the gates α with a search batch, until they settle."""

    def __init__(
        self,
        recommender: Recommender,
        objective: Objective,
        step: WeightStep,
        gate_step: GateStep,
        *,
        steps_per_epoch: int,
        tables_only: bool = False,
    ) -> None:
        super().__init__(recommender, objective, step, tables_only=tables_only)
        self.gate_step = gate_step
        self.gates_lr = gate_step.lr / steps_per_epoch if gate_step.per == "epoch" else gate_step.lr
        self.pushes = Pushes.none(self.selection.gates)

    @property
    def moves_gates(self) -> bool:
        """Yes: with each batch of search rows."""
        return True

    def configure_optimizers(self) -> Any:
        """Θ's optimizer and α's."""
        kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
        gates = kinds[self.gate_step.optimizer]([self.selection.gates], lr=self.gates_lr)
        return [super().configure_optimizers(), {"optimizer": gates}]

    def training_step(self, batch: dict[str, Batch], batch_idx: int) -> None:
        """Lines 6 to 9."""
        self.descend_weights(batch["train"])
        self.descend_gates(batch["train"], batch["search"])

    def descend_gates(self, train: Batch, search: Batch) -> None:
        """α ← clip(α − η_α · norm(∇_α L_search(Θ − ξ ∇_Θ L_train, α)), 0, 1): lines 7 to 9."""
        lazy = self.lazy
        if lazy is not None:
            if self.gate_step.xi:
                train, search = self.with_distinct(train, search)
            else:
                (search,) = with_distinct([search])
        gradient = hypergradient(
            self.recommender,
            train=train,
            held_out=search,
            peek=None if lazy is None else lazy.peek,
            train_loss=self.training_loss,
            held_out_loss=self.held_out_loss,
            xi=self.gate_step.xi,
            reduce=self._sum_over_ranks,
        )
        step, penalty = self._penalised(gradient)
        self.pushes.add(gradient, step, penalty)
        self.selection.gates.grad = step
        # the raw optimizer: through Lightning's wrapper every batch would count as two steps
        self.optimizers(use_pl_optimizer=False)[1].step()  # type: ignore[index]
        self.selection.clip()

    def on_fit_start(self) -> None:
        """Brings what is summed to where the gates are by now."""
        super().on_fit_start()
        self.pushes = self.pushes.to(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what moved the gates so far, too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["pushes"] = vars(self.pushes.to("cpu"))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes it back."""
        super().on_load_checkpoint(checkpoint)
        self.pushes = Pushes(**checkpoint["pushes"])

    def held_out_loss(self, prediction: Prediction, batch: Batch) -> Tensor:
        """L_val: the task's loss alone, this rank's share."""
        loss = self.objective.task.loss(prediction.logits, batch.label, batch.global_size)
        self.add_up("search/loss", loss)
        return loss

    def _penalised(self, gradient: Tensor) -> tuple[Tensor, Tensor | float]:
        """Equation 8 with the L1 penalty on α, whose gradient is +penalty as α ≥ 0; and the penalty's part in that."""
        penalty, epsilon = self.gate_step.penalty, self.gate_step.epsilon
        if self.gate_step.penalty_stage == "normalised":
            return normalise(gradient, epsilon) + penalty, penalty
        raw = gradient + penalty
        divisor = scale(raw, epsilon)
        return raw / divisor, penalty / divisor

    def _sum_over_ranks(self, tensor: Tensor) -> Tensor:
        # by hand: DDP's hooks run on backward(), not on autograd.grad()
        reduced = self.trainer.strategy.reduce(tensor, reduce_op="sum")
        return reduced if isinstance(reduced, Tensor) else torch.as_tensor(reduced)

    @property
    def selection(self) -> SoftSelection:
        """The layer that holds α."""
        assert isinstance(self.recommender.selection, SoftSelection), "a search is for models with gates"
        return self.recommender.selection
