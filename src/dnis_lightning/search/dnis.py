"""Differentiable Neural Input Search: Algorithm 1, and what was found to belong around it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Literal

from dnis_lightning.blocks import Blocks
from dnis_lightning.errors import ConfigError
from dnis_lightning.quantities import Count, NonNegative, Positive, Whole
from dnis_lightning.search.trial import GateStep, PenaltyStage, Per, Phase, Stopping, Trial, TrialResult


class Dnis:
    """One trial of up to three phases: warm start (Θ alone, α = 1), search (Algorithm 1), fit (Θ alone, α fixed).

    xi, gates_lr, penalty, epsilon: see `GateStep`. gates_lr_per: `step`, or `epoch` for a step that is spread over one
    epoch and so means the same on 10^5 and on 10^8 rows.
    warm_start: epochs at most of the first phase, 0 for none. tables_only: the search moves embeddings and first-order
    terms alone.
    search_epochs, search_patience, least_epochs, least_lr: when the search has converged, see `Stopping`.
    start_counts: a search none of whose epochs is better on select than the warm start leaves all gates open.
    give_up: such a search ends early where select is worse than that by more than this share, 0 = never.
    search_plateau: whether the search lowers the learning rate on plateaus.
    fit_epochs: epochs at most of the last phase, on train + search rows with the gates fixed, 0 for none; fit_fresh: it
    starts from the initial weights instead of those that the search ends with.
    patience: of the phases without gates.

    Raises ConfigError when the search has fewer epochs than it must have.
    """

    trial_count = 1
    gated, projected = True, False

    def __init__(
        self,
        *,
        xi: NonNegative,
        gates_lr: Positive,
        gates_lr_per: Per,
        gates_optimizer: Literal["sgd", "adam"],
        penalty: NonNegative,
        penalty_stage: PenaltyStage,
        epsilon: Positive,
        epoch: Literal["longest", "shortest"],
        warm_start: Whole,
        tables_only: bool,
        search_epochs: Count,
        search_patience: Count,
        least_epochs: Count,
        least_lr: NonNegative,
        start_counts: bool,
        give_up: NonNegative,
        search_plateau: bool,
        fit_epochs: Whole,
        fit_fresh: bool,
        patience: Count,
    ) -> None:
        self.gate_step = GateStep(
            xi, gates_lr, gates_lr_per, gates_optimizer, penalty, penalty_stage, epsilon, shortest=epoch == "shortest"
        )
        if least_epochs > search_epochs:
            raise ConfigError(
                f"search.least_epochs: {least_epochs} of search.search_epochs={search_epochs}: no epoch would count; "
                f"take search.least_epochs={search_epochs}, or more epochs"
            )
        self.warm_start = Stopping(warm_start, patience, least_lr=least_lr) if warm_start else None
        self.search = Stopping(
            search_epochs, search_patience, least_epochs, least_lr, start_counts=start_counts, give_up=give_up
        )
        self.fit = Stopping(fit_epochs, patience) if fit_epochs else None
        self.tables_only, self.search_plateau, self.fit_fresh = tables_only, search_plateau, fit_fresh

    def trials(self, blocks: Blocks) -> Generator[Trial, TrialResult, None]:
        """The one trial."""
        yield Trial("dnis", phases=tuple(self._phases()), gated=True)

    def _phases(self) -> Generator[Phase, None, None]:
        if self.warm_start:
            yield Phase("warm_start", "train", self.warm_start, cut_too=True)
        search = Phase("search", "train", self.search, self.gate_step, plateau=self.search_plateau, reset_gates=True)
        yield replace(search, tables_only=self.tables_only)
        if self.fit:
            yield Phase("fit", "train+search", self.fit, fresh=self.fit_fresh)
