"""In how many steps a table is cut, and what is trained between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from dnis_lightning.embedding.threshold import Granularity
from dnis_lightning.search.controller import Sizes
from dnis_lightning.search.trial import ControllerStep, GradualStep, Phase, Stopping, ThresholdStep


@dataclass(frozen=True)
class CutStep:
    """Cut to `kept` entries, or leave that to the phase (None); then train through the phase, if there is one.

    fresh: the training starts from the initial weights; of what went before only the choice of entries is left.
    """

    name: str
    kept: int | None
    phase: Phase | None
    fresh: bool = False


class Schedule(Protocol):
    """From a table of so many entries to one of `kept`; the last step cuts to `kept`."""

    def steps(self, entries: int, kept: int) -> list[CutStep]:
        """The steps, at least one."""
        ...


@dataclass(frozen=True)
class OneShot:
    """All at once, as in the paper's Algorithm 1; then the fine-tuning, if there is one."""

    finetune: Stopping | None = None

    def steps(self, entries: int, kept: int) -> list[CutStep]:
        """One step."""
        return [_last(kept, self.finetune)]


@dataclass(frozen=True)
class Iterative:
    """Prune and retrain in rounds (Han et al. 2015): each leaves the same share of what the one before it left.

    rounds: how many; training: after each round but the last, which ends with the fine-tuning.
    """

    rounds: int
    training: Stopping
    finetune: Stopping | None = None

    def steps(self, entries: int, kept: int) -> list[CutStep]:
        """One step a round: kept_r = entries · (kept / entries)^(r / rounds), rounded."""
        share = kept / entries if entries else 1.0
        return [
            CutStep(f"round-{r}", round(entries * share ** (r / self.rounds)), _phase(f"round-{r}", self.training))
            for r in range(1, self.rounds)
        ] + [_last(kept, self.finetune or self.training)]


@dataclass(frozen=True)
class Gradual:
    """The mask closes while the weights train on, fast at first and then ever slower (Zhu and Gupta 2017)."""

    epochs: int
    finetune: Stopping | None = None

    def steps(self, entries: int, kept: int) -> list[CutStep]:
        """The closing, and the fine-tuning of what it leaves."""
        training = Stopping(self.epochs, self.epochs, least_epochs=self.epochs)
        step = GradualStep(entries, kept, self.epochs)
        # select gets worse while entries go: that is no plateau
        closing = Phase("gradual", "train+search", training, moves=step, plateau=False)
        return [CutStep("gradual", None, closing), _last(kept, self.finetune)]


@dataclass(frozen=True)
class LearnedThresholds:
    """PEP (Liu et al. 2021): thresholds learned with the weights, from the initial values of both, until few enough
    entries are left; then these are trained from their initial values.

    epochs: at most, of the first part; start, lr, granularity, decay: see `ThresholdStep`; retrain: the second part.
    """

    epochs: int
    start: float
    lr: float
    granularity: Granularity
    decay: float
    retrain: Stopping

    def steps(self, entries: int, kept: int) -> list[CutStep]:
        """The search for thresholds, and the second training."""
        step = ThresholdStep(kept, start=self.start, lr=self.lr, granularity=self.granularity, decay=self.decay)
        training = Stopping(self.epochs, self.epochs, best=False)
        learning = Phase("thresholds", "train+search", training, moves=step, plateau=False)
        return [CutStep("thresholds", None, learning, fresh=True), _last(kept, self.retrain, fresh=True)]


@dataclass(frozen=True)
class PolicySearch:
    """NIS (Joglekar et al. 2020): a controller learns what to keep, by weights that all choices share; then this is
    trained from the initial values.

    sizes: `single` (NIS-SE) or `multi` (NIS-ME), see `Decisions`; parts, cost_weight, lr, samples: see
    `ControllerStep`. warm_up: epochs in which all choices are equally likely; epochs: then those in which the
    controller learns. retrain: the last training.
    """

    sizes: Sizes
    parts: int
    cost_weight: float
    lr: float
    samples: int
    warm_up: int
    epochs: int
    retrain: Stopping

    def steps(self, entries: int, kept: int) -> list[CutStep]:
        """Warm-up, search, and the training of what was chosen."""
        step = ControllerStep(self.sizes, self.parts, entries, kept, self.cost_weight, self.lr, self.samples)
        parts = [("warm_up", self.warm_up, replace(step, learns=False)), ("policy", self.epochs, step)]
        phases = [
            Phase(name, "train", Stopping(epochs, epochs, best=False), moves=controller, plateau=False)
            for name, epochs, controller in parts
            if epochs
        ]
        searching = [CutStep(phase.name, None, phase, fresh=not number) for number, phase in enumerate(phases)]
        return [*searching, _last(kept, self.retrain, fresh=True)]


def _phase(name: str, stopping: Stopping) -> Phase:
    return Phase(name, "train+search", stopping)


def _last(kept: int, training: Stopping | None, *, fresh: bool = False) -> CutStep:
    return CutStep("fine_tune", kept, _phase("fine_tune", training) if training else None, fresh)
