"""Cuts a trained model to a budget: in which ways, which of them stays, and what is written down."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property, partial
from typing import cast

import torch
from torch import Tensor

from dnis_lightning import result
from dnis_lightning.blocks import Blocks
from dnis_lightning.blueprint import save_pruned
from dnis_lightning.errors import RunError
from dnis_lightning.facts import CutFacts, Metrics
from dnis_lightning.folder import RunFolder, is_rank_zero
from dnis_lightning.judge import Judge
from dnis_lightning.measures import headline, worse_by
from dnis_lightning.packed.values import DTypeName
from dnis_lightning.recommender import Recommender
from dnis_lightning.scheme import Scheme
from dnis_lightning.search.budget import Budget
from dnis_lightning.search.importance import Importance
from dnis_lightning.search.prune import Pruning, chosen_by, cut_mask, most_that_fits
from dnis_lightning.search.schedule import CutStep
from dnis_lightning.shipping import Shipping, worth_trying
from dnis_lightning.training.cut_steps import CutSteps, chosen_now
from dnis_lightning.training.phases import PhaseRunner

log = logging.getLogger(__name__)

RIVAL_MARGIN = 0.05
"""Another way to cut is given up, untrained, where what it keeps is worse than that of the first by more than this."""
WARM_START = "warm_start"
"""What a model before its search is called, in `cut_from` and in the names of trainings."""
LEAD = 0.01
"""The table before the search takes the place of what came of it where it is better on select by more than this."""
ROUNDING = 1e-6
"""A table that predicts the same is worse by so much, as a share, at most: turned, its logits are rounded otherwise."""
NARROWED = 1.1
"""The smallest table within a loss is known once it has no more than so many times the entries of one that is not."""


@dataclass(frozen=True)
class Uncut:
    """What is cut: a model, made anew for each cut, and what its entries count for.

    name: `trained`, or `WARM_START` for what it was before the search.
    """

    name: str
    model: Callable[[], Recommender]
    importance: Importance


@dataclass(frozen=True)
class _Way:
    """What is cut, and how.

    sized: the type of numbers that bytes are filled with. suffix: of the names of its trainings. margin: a rival is
    dropped where, before the last of them, its metric is worse than that of the first way by more than this share;
    lead: it stays where, after it, its metric is better than the best so far by more than this one.
    """

    uncut: Uncut
    pruning: Pruning
    sized: DTypeName
    suffix: str = ""
    margin: float = 0.0
    lead: float = 0.0


@dataclass(frozen=True)
class _Cut:
    """A model that was cut, and trained but for the last time.

    last: that training. before: its metrics.
    """

    name: str
    way: _Way
    model: Recommender
    last: CutStep
    before: Metrics


@dataclass(frozen=True)
class _Attempt:
    """A model that was cut and trained: its table in fp32, and what `result.json` says of it as it is shipped.

    model: for all but its table, which may have the values of the last type that was tried.
    """

    model: Recommender
    scheme: Scheme
    facts: CutFacts


@dataclass
class _Progress:
    """How far a budget's cut has come.

    facts: of what is best so far, whose scheme is on disk. first: its metrics before the first way was fine-tuned.
    tried: the suffixes of rivals, whatever came of them. too_few: the most entries that a loss was found to be beyond.
    """

    facts: CutFacts
    first: Metrics
    tried: list[str] = field(default_factory=list)
    too_few: int | None = None


@dataclass
class Cutter:
    """Cuts an unpruned model; each cut starts from it anew.

    whole: N·K, the entries that rates are counted against. blocks: of the features. initial: makes the initial state
    of the model. before_search: the model before a search that has moved gates, if that is to be cut, too.
    """

    pruning: Pruning
    shipping: Shipping
    phases: PhaseRunner
    folder: RunFolder
    whole: int
    blocks: Blocks
    uncut: Uncut
    initial: Callable[[], Recommender]
    judge: Judge
    before_search: Uncut | None = None

    def cut(self, budget: Budget) -> CutFacts:
        """The facts of a cut, but for what is measured on test; its scheme is on disk then."""
        name, done = budget.name, self.phases.journal.done
        step = f"cut/{name}"
        if step in done and not self._on_disk(name):
            self._forget(name)
        if step not in done:
            self._make(budget.of_table(self.whole))
        return {"budget": name, **cast(CutFacts, done[step])}

    def _on_disk(self, name: str) -> bool:
        try:
            Scheme.load(self.folder.scheme(name))
        except RunError:
            return False
        return True

    def _forget(self, name: str) -> None:
        """Takes the steps of a cut out of the journal, so that they are done again."""
        done = self.phases.journal.done
        for stale in [one for one in done if one.endswith(f"/{name}")]:
            done.pop(stale)

    def _make(self, budget: Budget) -> None:
        started, journal, name = time.perf_counter(), self.phases.journal, budget.name
        found = f"found/{name}"
        if found in journal.done and not self._on_disk(name):
            self._forget(name)
        if found not in journal.done:
            self._begin(budget)
        progress = self._progress(name)
        if budget.loss is not None:
            self._fit_to_loss(name, progress, budget.loss)
        elif budget.epsilon is None and 0 < progress.facts["kept"] < self.whole:
            for rival in self._rivals(progress.facts):
                if rival.suffix not in progress.tried:
                    self._try_rival(budget, progress, rival)
        seconds, facts = max(time.perf_counter() - started, self._trained(name)), progress.facts
        journal.done.pop(found)
        journal.record(f"cut/{name}", {**facts, "seconds": seconds})
        journal.write()
        of = " of the table before the search" if facts["cut_from"] == WARM_START else ""
        log.info("%s: kept %d entries%s, %s", name, facts["kept"], of, _one_line(facts["metrics"]))

    @property
    def _first(self) -> _Way:
        return _Way(self.uncut, self.pruning, self.shipping.widths[-1])

    def _rivals(self, facts: CutFacts) -> Iterator[_Way]:
        """Other ways to cut than the first, of which these are the facts."""
        if self.pruning.rival not in (None, facts["by"]):
            pruning = replace(self.pruning, by=self.pruning.rival)
            yield _Way(self.uncut, pruning, facts["dtype"], f"-{self.pruning.rival}", RIVAL_MARGIN)
        if self.before_search is not None:
            yield _Way(self.before_search, self.pruning, facts["dtype"], f"-{self.before_search.name}", lead=LEAD)

    def _begin(self, budget: Budget) -> None:
        """Cuts in the first way.

        Where bytes are to be filled with numbers of whatever type does, the narrowest is tried first: it holds most.
        What would ship in a wider one, and so exceed them, is cut anew for the next.
        """
        journal, most = self.phases.journal, budget.most_bytes
        *narrower, widest = self._by_width(budget)
        for way in narrower:
            passed_over = f"passed-over{way.suffix}/{budget.name}"
            if passed_over in journal.done:
                continue
            attempt = self._finish(self._cut(budget, way))
            if attempt.facts["bytes"] <= most:
                self._start(budget.name, attempt)
                return
            del attempt  # one model at a time
            log.info("%s: in %s it would lose more than ship.tolerance; cut anew", budget.name, way.sized)
            journal.record(passed_over, {"seconds": 0.0})
            journal.write()
        self._start(budget.name, self._finish(self._cut(budget, widest)))

    def _by_width(self, budget: Budget) -> list[_Way]:
        """The first way, to fill bytes in each type of numbers that is worth it."""
        widths = self.shipping.widths
        if budget.size is None or len(widths) == 1:
            return [self._first]
        entries = {dtype: int(self._masked(budget, replace(self._first, sized=dtype))[1].sum()) for dtype in widths}
        chosen = worth_trying(widths, lambda dtype: entries[dtype])
        return [replace(self._first, sized=dtype, suffix=f"-{dtype}") for dtype in chosen]

    def _start(self, name: str, attempt: _Attempt) -> None:
        """Writes down what the first way has come to."""
        self._keep(name, _Progress(attempt.facts, attempt.facts["metrics_before_finetune"]), attempt)

    def _keep(self, name: str, progress: _Progress, attempt: _Attempt) -> None:
        """Makes an attempt what is best so far: a killed run goes on from there."""
        if is_rank_zero():
            save_pruned(self.folder, name, attempt.scheme, attempt.model)
        progress.facts = attempt.facts
        self._note(name, progress)

    def _note(self, name: str, progress: _Progress) -> None:
        self.phases.journal.record(f"found/{name}", {"seconds": 0.0} | asdict(progress))
        self.phases.journal.write()

    def _progress(self, name: str) -> _Progress:
        """What was noted."""
        known = self.phases.journal.done[f"found/{name}"]
        return _Progress(**{one.name: known[one.name] for one in fields(_Progress)})

    def _try_rival(self, budget: Budget, progress: _Progress, way: _Way) -> None:
        """Cuts in another way, too, if that is near before it is trained; what is better on select stays."""
        cut, best = self._cut(budget, way), self.judge.cost(progress.facts["metrics"])
        if self.judge.cost(cut.before) <= worse_by(self.judge.cost(progress.first), way.margin):
            attempt = self._finish(cut)
            better = worse_by(self.judge.cost(attempt.facts["metrics"]), way.lead) < best
            if better and attempt.facts["bytes"] <= budget.most_bytes:
                self._keep(budget.name, progress, attempt)
        progress.tried.append(way.suffix)
        self._note(budget.name, progress)

    def _fit_to_loss(self, name: str, progress: _Progress, loss: float) -> None:
        """Halves what is kept while that, trained, costs no more on select than it may; then narrows down by bisection.

        Where the first cut, which was within the loss before any training, is beyond it afterwards, as schedules that
        train anew or small numbers have it, it is doubled instead, to the whole table if need be.
        """
        most, entries = self._most(loss), int(self.uncut.model().table.kept().sum())
        trains = any(step.phase is not None for step in self.pruning.schedule.steps(entries, entries))

        def fits(facts: CutFacts) -> bool:
            return self.judge.cost(facts["metrics"]) <= most

        while True:
            facts = progress.facts
            facts["within_loss"] = fits(facts)
            enough = facts["kept"] if fits(facts) else None
            if enough is None and progress.too_few is None:
                progress.too_few = facts["kept"]
            if not trains and progress.too_few is None:  # the smallest is known already
                return
            if (count := _next_count(enough, progress.too_few, entries)) is None:
                break
            attempt = self._finish(self._cut(Budget(name, entries=count), replace(self._first, suffix=f"-{count}")))
            if fits(attempt.facts) or (
                enough is None and self.judge.cost(attempt.facts["metrics"]) < self.judge.cost(facts["metrics"])
            ):
                self._keep(name, progress, attempt)
            enough_now = fits(attempt.facts)
            del attempt  # one model at a time
            log.info("%s: %d entries are %s", name, count, "enough" if enough_now else "too few")
            if not enough_now:
                progress.too_few = count
                self._note(name, progress)

    def _cut(self, budget: Budget, way: _Way) -> _Cut:
        """Cuts, and trains but for the last time."""
        pruning, name = way.pruning, budget.name
        model, mask = self._masked(budget, way)
        in_bytes = self._in_bytes(model, budget.size, way.sized)
        kept = int(mask.sum())
        if kept == 0 and mask.numel():
            log.warning("%s: nothing is kept of the table", name)
            if not in_bytes(mask):
                log.warning("%s: even so its file is larger; take a larger budget", name)
        steps = pruning.schedule.steps(int(model.table.kept().sum()), kept)
        *earlier, last = [replace(step, name=f"{step.name}{way.suffix}") for step in steps]
        choose = partial(chosen_now, model, pruning=pruning, importance=way.uncut.importance)
        for step in earlier:
            self._steps.take(step, name, model, choose)
        if earlier:  # the table has changed since, and with it the choice, and the bytes that as many entries take
            mask = most_that_fits(choose, kept, in_bytes)
        model.keep(model.merged_table(), mask)
        return _Cut(name, way, model, last, self.judge.evaluate(model))

    def _finish(self, cut: _Cut) -> _Attempt:
        """Trains for the last time, and packs the table."""
        model = cut.model
        metrics = self._steps.train_if_better(cut.last, cut.name, model, cut.before)
        scheme = model.scheme()
        packed, metrics = self.shipping.choose(
            scheme, metrics, lambda other: self._evaluated_as(other, model), self.judge.cost
        )
        facts: CutFacts = {
            **result.scheme_size(scheme, self.whole, packed),
            "by": chosen_by(model, cut.way.pruning),
            "cut_from": cut.way.uncut.name,
            "metrics": metrics,
            "metrics_before_finetune": cut.before,
        }
        return _Attempt(model, scheme, facts)

    def _masked(self, budget: Budget, way: _Way) -> tuple[Recommender, Tensor]:
        """The uncut model, turned where the way does so, and which of its entries are to stay."""
        most = None if budget.loss is None else self._most(budget.loss)  # which loads a model of its own
        model = way.uncut.model()
        fits = self._in_bytes(model, budget.size, way.sized) if most is None else self._in_loss(model, most)
        return model, cut_mask(model, budget, way.pruning, way.uncut.importance, self.whole, fits)

    def _in_bytes(self, model: Recommender, size: float | None, dtype: DTypeName) -> Callable[[Tensor], bool]:
        """Whether a mask keeps to so many bytes in a type of numbers; all do where nothing is said."""
        if size is None:
            return _always
        return self.shipping.fits(size, model.table.projection_arrays, dtype)

    def _most(self, loss: float) -> float:
        """What a cut may cost on select at most."""
        return worse_by(self._cost_of_uncut, loss + ROUNDING)

    @cached_property
    def _cost_of_uncut(self) -> float:
        return self.judge.cost_of(self.uncut.model())

    def _in_loss(self, model: Recommender, most: float) -> Callable[[Tensor], bool]:
        """Whether what a mask keeps costs no more than that."""
        return lambda mask: self.judge.cost_of(model.cut_copy(mask)) <= most

    def _evaluated_as(self, scheme: Scheme, model: Recommender) -> Metrics:
        """The metrics of a model with the values of a scheme, which it has from now on."""
        model.keep(torch.from_numpy(scheme.dense()), model.table.mask)
        return self.judge.evaluate(model)

    @property
    def _steps(self) -> CutSteps:
        return CutSteps(self.phases, self.blocks, self.initial, self.judge)

    def _trained(self, name: str) -> float:
        """Seconds of all trainings for this cut, those before a kill included."""
        done = self.phases.journal.done
        return sum(facts["seconds"] for step, facts in done.items() if step.endswith(f"/{name}"))


def _next_count(enough: int | None, too_few: int | None, entries: int) -> int | None:
    """How many entries to try next; None where it is known closely enough how many are needed, or all are too few."""
    if enough is None:
        assert too_few is not None, "something was tried"
        return min(max(2 * too_few, entries // 64, 1), entries) if too_few < entries else None
    if too_few is None:
        return enough // 2 if enough else None
    count = round(math.sqrt(enough * max(too_few, 1)))
    return count if enough > too_few * NARROWED and too_few < count < enough else None


def _always(mask: Tensor) -> bool:
    return True


def _one_line(metrics: Mapping[str, float]) -> str:
    """Metrics on one line."""
    return ", ".join(f"{name} {value:.5f}" for name, value in metrics.items() if name in headline(list(metrics)))
