"""The steps from a trained model to one that is cut: what goes when, and what is trained meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dnis_lightning.blocks import Blocks
from dnis_lightning.embedding.choice import BlockChoice
from dnis_lightning.embedding.threshold import SoftThreshold
from dnis_lightning.facts import Metrics
from dnis_lightning.judge import Judge
from dnis_lightning.recommender import Recommender
from dnis_lightning.search.importance import Importance
from dnis_lightning.search.prune import Choice, Pruning, choose_again
from dnis_lightning.search.schedule import CutStep
from dnis_lightning.search.trial import ControllerStep, ThresholdStep
from dnis_lightning.training.phases import PhaseRunner

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CutSteps:
    """Takes the steps of a schedule; names of cuts tell their trainings apart.

    blocks: of the features. initial: makes the initial state of a model.
    """

    phases: PhaseRunner
    blocks: Blocks
    initial: Callable[[], Recommender]
    judge: Judge

    def take(self, one: CutStep, name: str, model: Recommender, choose: Choice) -> None:
        """A step before the last one, of which the model has what came of it. choose: as the model is by then."""
        if one.kept is not None:
            self._round(one, choose(one.kept), name, model)
            return
        assert one.phase is not None, "a step cuts, or its phase does"
        if one.fresh:
            self._restart(model)
        moves, (features, dims) = one.phase.moves, model.table.kept().shape
        if isinstance(moves, ThresholdStep):
            model.selection = SoftThreshold(features, dims, granularity=moves.granularity, start=moves.start)
        elif not isinstance(moves, ControllerStep):
            model.keep(model.merged_table(), model.table.kept())  # the mask closes during the training
        elif one.fresh:
            model.selection = BlockChoice(self.blocks.block_of, self.blocks.count, dims)
        self.phases.fit(f"{one.name}/{name}", one.phase, model)

    def train_if_better(self, one: CutStep, name: str, model: Recommender, before: Metrics) -> Metrics:
        """Trains what a cut has kept, if that is asked for and helps on select; the metrics of what comes of it."""
        if one.phase is None:
            return before
        journal, mask = self.phases.journal, model.table.mask
        with journal.aside(model.state_dict()) as untrained:
            if one.fresh:
                self._restart(model)
                model.keep(model.merged_table(), mask)
            self.phases.fit(f"{one.name}/{name}", one.phase, model, keep_weights=False)
            after = self.judge.evaluate(model)
            if self.judge.cost(after) < self.judge.cost(before):
                return after
            model.load_weights(journal.load(untrained))
            if one.fresh:
                log.info("%s: training from the start is no better on select: the weights of the search stay", name)
            return before

    def _round(self, one: CutStep, mask: Tensor, name: str, model: Recommender) -> None:
        """Cuts and trains; the journal keeps what comes of both, so that a killed run need not decide again."""
        step, journal = f"after-{one.name}/{name}", self.phases.journal
        model.keep(model.merged_table(), mask)
        if step not in journal.done:
            self.train_if_better(one, name, model, self.judge.evaluate(model))
            journal.record(step, {"seconds": 0.0}, journal.save(model.state_dict()))
            journal.write()
        elif journal.weights_of == step and journal.weights is not None:
            model.load_weights(journal.load(journal.weights))

    def _restart(self, model: Recommender) -> None:
        model.selection = None
        model.load_weights(self.initial().state_dict())


def chosen_now(model: Recommender, kept: int, *, pruning: Pruning, importance: Importance) -> Tensor:
    """(N, K) bool: the entries that stay of a model amid its steps where so many are to be kept."""
    if isinstance(model.selection, BlockChoice) and (more := model.selection.open_entries()) > kept:
        log.warning("the controller chose %d entries, more than %d: the smallest of them go, too", more, kept)
    if isinstance(model.selection, SoftThreshold | BlockChoice):
        return model.selection.chosen(model.table.entries(), kept, model.table.kept())
    return choose_again(model, kept, pruning, importance)
