"""Cuts a trained model to a budget: what goes when, what is trained meanwhile, and what is written down."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dnis_lightning import result
from dnis_lightning.blocks import Blocks
from dnis_lightning.blueprint import save_pruned
from dnis_lightning.embedding.choice import BlockChoice
from dnis_lightning.embedding.threshold import SoftThreshold
from dnis_lightning.folder import RunFolder, is_rank_zero
from dnis_lightning.measures import headline, worse_by
from dnis_lightning.recommender import Recommender
from dnis_lightning.scheme import Scheme
from dnis_lightning.search.budget import Budget
from dnis_lightning.search.importance import Importance
from dnis_lightning.search.prune import Pruning, choose_again, chosen_by, cut_mask, tried
from dnis_lightning.search.schedule import CutStep
from dnis_lightning.shipping import Shipping
from dnis_lightning.training.phases import PhaseRunner

log = logging.getLogger(__name__)

Metrics = dict[str, float]
FAR = 0.05
"""How much worse the loss may be, before its last training, of a second way to cut that is tried."""


@dataclass
class Cutter:
    """Cuts an unpruned model; each cut starts from it anew.

    whole: N·K, the entries that rates are counted against. blocks: of the features. importance: of entries.
    unpruned: makes the model; initial: makes its initial state. evaluate: metrics on select. score: of metrics, smaller
    is better.
    """

    pruning: Pruning
    shipping: Shipping
    phases: PhaseRunner
    folder: RunFolder
    whole: int
    blocks: Blocks
    importance: Importance
    unpruned: Callable[[], Recommender]
    initial: Callable[[], Recommender]
    evaluate: Callable[[Recommender], Metrics]
    score: Callable[[Mapping[str, Any]], float]

    def cut(self, bound: Budget | float) -> dict[str, Any]:
        """The facts of a cut to a budget or at a threshold; its scheme is on disk then."""
        name = bound.name if isinstance(bound, Budget) else f"eps:{bound:.12g}"
        step, done = f"cut/{name}", self.phases.journal.done
        if step in done and not self.folder.scheme(name).exists():
            self._forget(name)
        if step not in done:
            self._make(name, bound)
        return {"budget": name, **done[step]}

    def _forget(self, name: str, step: str = "") -> None:
        """Takes the steps of a cut, or one of them, out of the journal, so that they are done again."""
        done = self.phases.journal.done
        for stale in [one for one in done if one.endswith(f"/{name}") and one.startswith(f"{step}/" if step else "")]:
            done.pop(stale)

    def _make(self, name: str, bound: Budget | float) -> None:
        started, journal, rival = time.perf_counter(), self.phases.journal, self.pruning.rival
        first = f"first/{name}"
        if first not in journal.done or not self.folder.scheme(name).exists():
            self._forget(name, "fine_tune" if first not in journal.done else "")  # its weights were not kept
            journal.record(first, {"seconds": 0.0, "facts": self._made(name, bound, self.pruning)})
            if rival is not None:
                journal.write()
        facts = journal.done[first]["facts"]
        cuts = 0 < facts["kept"] < self.whole and isinstance(bound, Budget) and bound.loss is None
        if rival is not None and facts["by"] != rival and cuts:
            facts = self._made(name, bound, replace(self.pruning, by=rival), facts)
        seconds = max(time.perf_counter() - started, self._trained(name))
        journal.done.pop(first)
        journal.record(f"cut/{name}", facts | {"seconds": seconds})
        journal.write()
        log.info("%s: kept %d entries, %s", name, facts["kept"], _one_line(facts["metrics"]))

    def _made(
        self, name: str, bound: Budget | float, pruning: Pruning, against: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The facts of a cut by one way of choosing what stays; its scheme is on disk then.

        against: the facts of the first way's cut, which are returned unchanged, its scheme left on disk, unless this
        cut is better on select.
        """
        model = self.unpruned()
        in_bytes = self._in_bytes(model, bound)
        fits = in_bytes if not isinstance(bound, Budget) or bound.loss is None else self._in_loss(model, bound.loss)
        mask = cut_mask(model, bound, pruning, self.importance, self.whole, fits)
        kept = int(mask.sum())
        if kept == 0 and mask.numel():
            log.warning("%s: nothing is kept of the table", name)
            if not in_bytes(mask):
                log.warning("%s: even so its file is larger; take a larger budget", name)
        *earlier, last = self.pruning.schedule.steps(int(model.table.kept().sum()), kept)
        if against is not None:
            *earlier, last = [replace(one, name=f"{one.name}-{pruning.by}") for one in (*earlier, last)]
        for one in earlier:
            self._take(one, name, model)
        if earlier:  # the table has changed since, and with it the choice, and the bytes that as many entries take
            mask = tried(lambda count: self._chosen(model, count), kept, in_bytes)
        model.keep(model.merged_table(), mask)
        before = self.evaluate(model)
        if against is not None and self._is_far(before, against["metrics_before_finetune"]):
            return against
        metrics = self._trained_if_better(last, name, model, before)
        scheme = model.scheme()
        packed, metrics = self.shipping.choose(
            scheme, metrics, lambda other: self._with_values(other, model), self.score
        )
        if against is not None and self.score(metrics) >= self.score(against["metrics"]):
            return against
        if is_rank_zero():
            save_pruned(self.folder, name, scheme, model)
        facts = result.scheme_size(scheme, self.whole, packed) | {"by": chosen_by(model, pruning)}
        return facts | {"metrics": metrics, "metrics_before_finetune": before}

    def _is_far(self, metrics: Metrics, others: Metrics) -> bool:
        """Whether what a cut has left, not trained yet, is so much worse than another that training will not help."""
        return self.score(metrics) > worse_by(self.score(others), FAR)

    def _in_bytes(self, model: Recommender, bound: Budget | float) -> Callable[[Tensor], bool]:
        """Whether a mask keeps to a budget in bytes; of other bounds all do."""
        if not isinstance(bound, Budget) or bound.size is None:
            return _always
        size, projections = bound.size, model.table.projection_arrays()
        return lambda mask: self.shipping.bytes_of(mask.cpu().numpy(), projections) <= size

    def _in_loss(self, model: Recommender, loss: float) -> Callable[[Tensor], bool]:
        """Whether a mask keeps to what the cut may cost on select."""
        most = worse_by(self.score(self.evaluate(model)), loss)
        return lambda mask: self.score(self.evaluate(model.cut_copy(mask))) <= most

    def _with_values(self, scheme: Scheme, model: Recommender) -> Metrics:
        """The metrics of a model with the values of a scheme, which it has from now on."""
        model.keep(torch.from_numpy(scheme.dense()), model.table.mask)
        return self.evaluate(model)

    def _take(self, one: CutStep, name: str, model: Recommender) -> None:
        """A step before the last one."""
        if one.kept is not None:
            self._round(one, one.kept, name, model)
            return
        assert one.phase is not None, "a step cuts, or its phase does"
        if one.fresh:
            self._restart(model)
        thresholds = one.phase.thresholds
        features, dims = model.table.kept().shape
        if thresholds is not None:
            model.selection = SoftThreshold(features, dims, granularity=thresholds.granularity, start=thresholds.start)
        elif one.phase.controller is None:
            model.keep(model.merged_table(), model.table.kept())  # the mask closes during the training
        elif one.fresh:
            model.selection = BlockChoice(self.blocks.block_of, self.blocks.count, dims)
        self.phases.fit(f"{one.name}/{name}", one.phase, model)

    def _round(self, one: CutStep, kept: int, name: str, model: Recommender) -> None:
        """Cuts and trains; the journal keeps what comes of both, so that a killed run need not decide again."""
        step, journal = f"after-{one.name}/{name}", self.phases.journal
        model.keep(model.merged_table(), self._chosen(model, kept))
        if step not in journal.done:
            self._trained_if_better(one, name, model, self.evaluate(model))
            journal.record(step, {"seconds": 0.0}, journal.save(model.state_dict()))
            journal.write()
        elif journal.weights_of == step and journal.weights is not None:
            model.load_weights(journal.load(journal.weights))

    def _chosen(self, model: Recommender, kept: int) -> Tensor:
        """(N, K) bool: the entries that stay where so many are to be kept."""
        if isinstance(model.selection, BlockChoice) and (more := model.selection.open_entries()) > kept:
            log.warning("the controller chose %d entries, more than %d: the smallest of them go, too", more, kept)
        if isinstance(model.selection, SoftThreshold | BlockChoice):
            return model.selection.chosen(model.table.entries(), kept, model.table.kept())
        return choose_again(model, kept, self.pruning, self.importance)

    def _trained_if_better(self, one: CutStep, name: str, model: Recommender, before: Metrics) -> Metrics:
        """Trains what a cut has kept, if that is asked for and helps on select; the metrics of what comes of it."""
        if one.phase is None:
            return before
        journal, mask = self.phases.journal, model.table.mask
        with journal.aside(model.state_dict()) as untrained:
            if one.fresh:
                self._restart(model)
                model.keep(model.merged_table(), mask)
            self.phases.fit(f"{one.name}/{name}", one.phase, model, keep_weights=False)
            after = self.evaluate(model)
            if self.score(after) < self.score(before):
                return after
            model.load_weights(journal.load(untrained))
            if one.fresh:
                log.info("%s: training from the start is no better on select: the weights of the search stay", name)
            return before

    def _restart(self, model: Recommender) -> None:
        model.selection = None
        model.load_weights(self.initial().state_dict())

    def _trained(self, name: str) -> float:
        """Seconds of all trainings for this cut, those before a kill included."""
        done = self.phases.journal.done
        return sum(facts["seconds"] for step, facts in done.items() if step.endswith(f"/{name}"))


def _always(mask: Tensor) -> bool:
    return True


def _one_line(metrics: Mapping[str, float]) -> str:
    """Metrics on one line."""
    return ", ".join(f"{name} {value:.5f}" for name, value in metrics.items() if name in headline(list(metrics)))
