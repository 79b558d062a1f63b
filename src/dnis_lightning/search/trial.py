"""What a search method asks for: trials, and the phases of each, as plain values."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal, Protocol

Rows = Literal["train", "train+search"]
PenaltyStage = Literal["raw", "normalised"]
Per = Literal["step", "epoch"]


@dataclass(frozen=True)
class Stopping:
    """When a phase has converged: the task's metric on select has not fallen for `patience` epochs.

    max_epochs: at the latest; least_epochs: not before, and no earlier epoch counts as the best. The weights of the
    best epoch are what a phase ends with.
    least_lr: also stop when the plateau schedule has lowered the learning rate to this, 0 = never.
    """

    max_epochs: int
    patience: int
    least_epochs: int = 1
    least_lr: float = 0.0


@dataclass(frozen=True)
class GateStep:
    """Lines 7 to 9 of Algorithm 1.

    xi: ξ of equation 7. lr: step of α, at every batch or spread over one epoch (`per`).
    penalty: L1 on α, added to the gradient before equation 8 (`raw`) or after it (`normalised`).
    epsilon: ε_g. shortest: an epoch ends with the shorter of the two loaders instead of the longer.
    """

    xi: float = 0.0
    lr: float = 0.01
    per: Per = "step"
    optimizer: Literal["sgd", "adam"] = "adam"
    penalty: float = 0.0
    penalty_stage: PenaltyStage = "raw"
    epsilon: float = 1e-7
    shortest: bool = False


@dataclass(frozen=True)
class Phase:
    """One training: which rows the weights see, which weights move, and how the gates do (None: not at all).

    tables_only: only embeddings and first-order terms move. reset_gates: α is set to 1 first. fresh: all weights but
    the gates go back to where the trial began. plateau: the learning rate may be lowered on plateaus.
    """

    name: str
    rows: Rows
    stopping: Stopping
    gate_step: GateStep | None = None
    tables_only: bool = False
    reset_gates: bool = False
    fresh: bool = False
    plateau: bool = True


@dataclass(frozen=True)
class Trial:
    """One way to build the embedding, and the phases that train it.

    dims: the width of the table, or None for search.base_dim; gated: with a soft selection layer.
    """

    name: str
    phases: tuple[Phase, ...]
    dims: int | None = None
    gated: bool = False


@dataclass(frozen=True)
class TrialResult:
    """What a method is told of a trial: the task's metric on the select split, smaller is better."""

    trial: Trial
    score: float


class SearchMethod(Protocol):
    """Yields trials and is sent the result of each, so that the next may depend on it.

    trial_count: how many there are, for search.trial; None where a trial depends on those before it, so that none can
    be run alone. gated: whether there are gates, by which tables can be cut.
    """

    trial_count: int | None
    gated: bool

    def trials(self) -> Generator[Trial, TrialResult, None]:
        """The trials, one after the other."""
        ...
