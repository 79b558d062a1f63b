"""Training the shared weights of neural input search, and the controller that chooses among their parts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dnis_lightning.batch import Batch
from dnis_lightning.blocks import Blocks
from dnis_lightning.lookup import gather
from dnis_lightning.recommender import Recommender, tables_of
from dnis_lightning.search.bilevel import frozen
from dnis_lightning.search.controller import Controller, Decisions
from dnis_lightning.search.trial import ControllerStep
from dnis_lightning.tasks import Objective
from dnis_lightning.training.fit_module import FitModule, WeightStep


class ControllerModule(FitModule):
    """One step on the weights of a choice that is drawn, with a train batch, then one on the controller, with a search
    batch, if it `learns`.

    What a choice leaves out is shut by the gates, which are 0 or 1 here. Validation sees the likeliest choice.
    """

    def __init__(
        self,
        recommender: Recommender,
        objective: Objective,
        step: WeightStep,
        controller_step: ControllerStep,
        blocks: Blocks,
        *,
        steps_per_epoch: int,
        seed: int,
    ) -> None:
        super().__init__(recommender, objective, step)
        assert self.gates is not None, "a search is for models with gates"
        self.controller_lr = controller_step.lr / steps_per_epoch
        self.controller_step, tables, parts = controller_step, tables_of(recommender.interaction), controller_step.parts
        dims = self.gates.shape[1] // tables
        widths = [(number + 1) * dims // parts - number * dims // parts for number in range(parts)]
        self.decisions = Decisions.of(blocks, widths, controller_step.sizes)
        self.controller = Controller(self.decisions, seed)
        # (K,), or (tables · K,): the part that each dimension is in
        self._part_of = torch.arange(parts).repeat_interleave(torch.tensor(widths)).repeat(tables)

    @property
    def moves_gates(self) -> bool:
        """Yes: with each choice."""
        return True

    def configure_optimizers(self) -> Any:
        """Θ's optimizer and the controller's."""
        return [
            super().configure_optimizers(),
            {"optimizer": torch.optim.Adam([self.controller.logits], lr=self.controller_lr)},
        ]

    def training_step(self, batch: dict[str, Batch], batch_idx: int) -> None:
        """A step on Θ, and one on π."""
        self.keep(self.controller.sample())
        self.descend_weights(batch["train"])
        if self.controller_step.learns:
            self.ascend_policy(batch["search"])

    def keep(self, choice: Tensor) -> None:
        """Open the gates of what a choice keeps, shut all others."""
        assert self.gates is not None, "a search is for models with gates"
        self.gates.data.copy_(self.decisions.kept(choice)[:, self._part_of])

    @torch.no_grad()
    def ascend_policy(self, held_out: Batch) -> None:
        """π ← π + η ∇ E_π[R], R = −L_search − λ · max(0, m / kept − 1) for a choice that keeps m entries."""
        chosen = self.controller_step
        choices = [self.controller.sample() for _ in range(chosen.samples)]
        rewards = self._losses(held_out, choices).neg().tolist()
        for number, choice in enumerate(choices):
            many = chosen.entries * self.decisions.share(self.decisions.kept(choice))
            rewards[number] -= chosen.cost_weight * max(0.0, many / max(chosen.kept, 1) - 1)
        # the raw optimizer: through Lightning's wrapper every batch would count as two steps
        self.controller.learn(choices, rewards, self.optimizers(use_pl_optimizer=False)[1])  # type: ignore[index]
        self._note("reward", sum(rewards) / len(rewards))
        self._note("kept", sum(self.decisions.share(self.decisions.kept(choice)) for choice in choices) / len(choices))
        self._note("certainty", self.controller.certainty())

    def on_validation_epoch_start(self) -> None:
        """The likeliest choice."""
        super().on_validation_epoch_start()
        self.keep(self.controller.likeliest())

    def _note(self, name: str, value: float) -> None:
        """What all ranks have alike, for the curves: its mean over the epoch."""
        self.add_up(f"search/{name}", torch.tensor(value / self.trainer.world_size, device=self.device))

    def _losses(self, batch: Batch, choices: list[Tensor]) -> Tensor:
        """The task's loss with each choice, over all ranks."""
        lazy = self.lazy
        if lazy is not None:
            (batch,) = self.with_distinct(batch)
        losses = []
        with frozen(self.recommender):
            for choice in choices:
                self.keep(choice)
                logits = self.recommender(batch, gather if lazy is None else lazy.peek).logits
                losses.append(self.objective.task.loss(logits, batch.label, batch.global_size))
        reduced = self.trainer.strategy.reduce(torch.stack(losses), reduce_op="sum")
        return reduced if isinstance(reduced, Tensor) else torch.as_tensor(reduced)
