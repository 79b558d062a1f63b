"""What a search method asks for: trials, and the phases of each, as plain values."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal, Protocol

from dnis_lightning.blocks import Blocks
from dnis_lightning.embedding.threshold import Granularity
from dnis_lightning.search.controller import Sizes

Rows = Literal["train", "train+search"]
PenaltyStage = Literal["raw", "normalised"]
Per = Literal["step", "epoch"]


@dataclass(frozen=True)
class Stopping:
    """When a phase has converged: the task's metric on select has not become better for `patience` epochs.

    max_epochs: at the latest; least_epochs: not before, and no earlier epoch counts as the best. The weights of the
    best epoch are what a phase ends with.
    least_lr: also stop when the plateau schedule has lowered the learning rate to this, 0 = never.
    best: False for the weights of the last epoch instead of the best. start_counts: the weights that the phase starts
    with, if their metric is known, are as good as those of an epoch: where none is better, the phase ends with them.
    give_up: needs start_counts; from least_epochs on also stop when no epoch that counts was better than the start, and
    this one is worse than that by more than this share of the metric, 0 = never.
    """

    max_epochs: int
    patience: int
    least_epochs: int = 1
    least_lr: float = 0.0
    best: bool = True
    start_counts: bool = False
    give_up: float = 0.0


@dataclass(frozen=True)
class GradualStep:
    """Magnitude pruning while the weights train on (Zhu and Gupta 2017).

    At training step t of T the table keeps, of its `entries`, kept(t) = kept + (entries − kept) (1 − t/T)³ of largest
    magnitude; T is `epochs` epochs, and the mask is drawn anew `updates` times an epoch.
    """

    entries: int
    kept: int
    epochs: int
    updates: int = 20


@dataclass(frozen=True)
class ThresholdStep:
    """Thresholds learned with the weights until `kept` entries or fewer are left (Liu et al. 2021).

    start: of s; lr: the step of s, spread over one epoch; granularity: see `SoftThreshold`.
    decay: added times s to the gradient of s. It is what raises thresholds: where the weights are at rest, the loss has
    no gradient left for s, either (Kusupati et al. 2020, whose reparametrisation this is).
    """

    kept: int
    start: float
    lr: float
    granularity: Granularity
    decay: float


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
class ControllerStep:
    """How a controller learns which parts of the table to keep (Joglekar et al. 2020).

    sizes: see `Decisions`. parts: into how many the K dimensions are cut, equally. kept: how many of the table's
    `entries` may be kept; a choice that keeps m of them has the reward −L_search − cost_weight · max(0, m / kept − 1).
    lr: of the controller's Adam, spread over one epoch. samples: choices for each step, two or more. learns: otherwise
    all choices stay equally likely.
    """

    sizes: Sizes
    parts: int
    entries: int
    kept: int
    cost_weight: float
    lr: float
    samples: int
    learns: bool = True


Moves = GateStep | GradualStep | ThresholdStep | ControllerStep
"""What a training moves besides the weights: gates, a mask that closes, thresholds, or a controller."""


@dataclass(frozen=True)
class Phase:
    """One training: which rows the weights see, which weights move, and what else does (None: nothing).

    tables_only: only embeddings and first-order terms move. reset_gates: α is set to 1 first. fresh: all weights but
    the gates go back to where the trial began. plateau: the learning rate may be lowered on plateaus. cut_too: the
    table that it ends with is cut, too.
    """

    name: str
    rows: Rows
    stopping: Stopping
    moves: Moves | None = None
    tables_only: bool = False
    reset_gates: bool = False
    fresh: bool = False
    plateau: bool = True
    cut_too: bool = False

    @property
    def paired(self) -> bool:
        """Whether each step takes a search batch, too."""
        return self.searches or (isinstance(self.moves, ControllerStep) and self.moves.learns)

    @property
    def searches(self) -> bool:
        """Whether gates move."""
        return isinstance(self.moves, GateStep)


@dataclass(frozen=True)
class Trial:
    """One way to build the embedding, and the phases that train it.

    dims: the width of the rows that the interaction sees, or None for search.base_dim. block_dims (L,): the width of
    each block's table, or None for `dims` everywhere; a narrower block's rows are widened by a learned projection if
    `projected`, else by zeros. gated: with a soft selection layer.
    """

    name: str
    phases: tuple[Phase, ...]
    dims: int | None = None
    block_dims: tuple[int, ...] | None = None
    projected: bool = False
    gated: bool = False


@dataclass(frozen=True)
class TrialResult:
    """What a method is told of a trial: the task's metric on the select split, turned so that smaller is better."""

    trial: Trial
    score: float


class SearchMethod(Protocol):
    """Yields trials and is sent the result of each, so that the next may depend on it.

    trial_count: how many there are, for search.trial; None where a trial depends on those before it, so that none can
    be run alone. gated: whether there are gates, by which tables can be cut. projected: whether narrow rows are
    projected, so that no thresholds can be learned on them.
    """

    trial_count: int | None
    gated: bool
    projected: bool

    def trials(self, blocks: Blocks) -> Generator[Trial, TrialResult, None]:
        """The trials, one after the other, for features in these blocks."""
        ...
