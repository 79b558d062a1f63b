"""What was tried and not taken: a run with one part of it replaced, most often what moves the gates.

    python -m benchmarks.untaken noise data=movielens-100k model=mf 'search.budget=[10%]' seed=0

runs the main command with that part replaced, into outputs/untaken/noise unless it is told where; `make ablation` runs
them all, and holds them against the recipe.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.runs import slug
from dnis_lightning import build, command, cutting
from dnis_lightning.batch import Batch
from dnis_lightning.blocks import Blocks
from dnis_lightning.blueprint import load_best
from dnis_lightning.errors import ConfigError
from dnis_lightning.folder import RunFolder
from dnis_lightning.recommender import GATES, Prediction, Recommender, tables_of
from dnis_lightning.run import Run
from dnis_lightning.search import none
from dnis_lightning.search.bilevel import normalise
from dnis_lightning.search.budget import Budget
from dnis_lightning.search.diagnosis import signal
from dnis_lightning.search.importance import Importance
from dnis_lightning.search.none import Uniform
from dnis_lightning.search.prune import Pruning, cut_mask, largest, most_entries
from dnis_lightning.search.schedule import CutStep, OneShot
from dnis_lightning.search.trial import Trial, TrialResult
from dnis_lightning.training import phases
from dnis_lightning.training.fit_module import FitModule
from dnis_lightning.training.search_module import SearchModule

DENSITY = 0.1
"""Where `Steered` takes the mean of the gates."""
NARROWING = 4
"""Behind a block's length `LearnedLengths` lets the gates fall to 0 over K divided by this many dimensions."""
NEIGHBOURS = 50
"""Blocks on either side, in the order of frequency, that `SharedPrior` takes a share of."""
HEARD = 1.5
"""Times what noise has, the `signal` from which on `FrozenWhereNoise` lets a block's gates move."""
MORE = 1.25
"""Times the entries that may be kept, of which `finer_mask` chooses."""
SHRUNK = 0.05
"""By which share `ByGradientOfSelect` shrinks a block, to see what select loses."""
LEAST_LOSS = 1e-9
"""What select loses at least without a dimension, so that what counts for nothing keeps an order, too."""


class Noise(SearchModule):
    """The data's step drawn by lot: what is left is the penalty, and a shuffle of the dimensions."""

    def _penalised(self, gradient: Tensor) -> tuple[Tensor, Tensor | float]:
        return super()._penalised(torch.randn_like(gradient))


class Magnitude(SearchModule):
    """Dimensions of a block whose entries are smaller than its others' sink: no row of search is looked at."""

    def _penalised(self, gradient: Tensor) -> tuple[Tensor, Tensor | float]:
        entries = self.recommender.table.entries().detach().abs()
        sums = torch.zeros_like(gradient).index_add_(0, self.selection.block_of, entries)
        return super()._penalised(sums.mean(1, keepdim=True) - sums)


class ComparedBetweenBlocks(SearchModule):
    """Equation 8 by the mean over all blocks: those whose gates matter more move more."""

    def _penalised(self, gradient: Tensor) -> tuple[Tensor, Tensor | float]:
        penalty = self.gate_step.penalty
        return normalise(gradient.view(1, -1), self.gate_step.epsilon).view_as(gradient) + penalty, penalty


class FrozenWhereNoise(SearchModule):
    """Gates of a block stand still while the steps of its gradient so far agree no better than noise would."""

    def _penalised(self, gradient: Tensor) -> tuple[Tensor, Tensor | float]:
        step, penalty = super()._penalised(gradient)
        heard = (signal(self.pushes) > HEARD).to(step).unsqueeze(1)
        return step * heard, penalty * heard


class Steered(SearchModule):
    """No penalty is given: each step's is what takes the mean of the gates from 1 to `density`, evenly."""

    density: ClassVar[float] = DENSITY

    def _penalised(self, gradient: Tensor) -> tuple[Tensor, Tensor | float]:
        data = normalise(gradient, self.gate_step.epsilon)
        taken = self.trainer.fit_loop.total_batch_idx + 1
        done = min(taken / self.trainer.estimated_stepping_batches, 1)
        excess = self.selection.gates.mean() - (1 - (1 - self.density) * done)
        penalty = (excess / self.gates_lr - data.mean()).clamp(min=0)
        return data + penalty, penalty


def along_k(search: SearchModule) -> tuple[int, Tensor]:
    """K, and where each gate of a block lies along k, in each of the tables side by side."""
    gates = search.selection.gates
    dims = gates.shape[1] // tables_of(search.recommender.interaction)
    return dims, torch.arange(gates.shape[1], device=gates.device) % dims


class Growing(SearchModule):
    """The penalty grows along k, from nothing to twice its mean, so that the first dimensions stay open."""

    def _penalised(self, gradient: Tensor) -> tuple[Tensor, Tensor | float]:
        step, penalty = super()._penalised(gradient)
        dims, place = along_k(self)
        grown = penalty * (2 * place + 1) / dims
        return step - penalty + grown, grown.expand_as(gradient)


class OnAxes(SearchModule):
    """The gates start on a table that was turned onto its principal axes: their order along k is there already."""

    def __init__(self, recommender: Recommender, *arguments: Any, **more: Any) -> None:
        selection = recommender.selection
        assert recommender.turn(torch.ones(len(recommender.table.kept()))), "rows of this model can be turned"
        recommender.selection = selection
        super().__init__(recommender, *arguments, **more)


class Ordered(OnAxes, Growing):
    """On these axes, a penalty that grows along k."""


class LearnedLengths(SearchModule):
    """A block learns one length, not K gates: in each table they are 1 up to it, and fall to 0 behind it, evenly."""

    @property
    def fall(self) -> int:
        """Over how many dimensions."""
        return max(along_k(self)[0] // NARROWING, 1)

    @cached_property
    def lengths(self) -> Tensor:
        """(L, 1) where the gates are 0; at first so far behind the last dimension that all are 1."""
        return torch.full_like(self.selection.gates.detach()[:, :1], along_k(self)[0] - 1 + self.fall)

    def descend_gates(self, train: Batch, search: Batch) -> None:
        """A step on the lengths, by what the gates that depend on them are moved by."""
        super().descend_gates(train, search)
        gates = self.selection.gates
        assert gates.grad is not None
        dims, place = along_k(self)
        behind = self.lengths - place
        falling = ((behind >= 0) & (behind <= self.fall)).to(gates)
        step = (gates.grad * falling).sum(1, keepdim=True) / falling.sum(1, keepdim=True).clamp(min=1)
        self.lengths = (self.lengths - self.gates_lr * self.fall * step).clamp(0, dims - 1 + self.fall)
        gates.data.copy_(((self.lengths - place) / self.fall).clamp(0, 1))


class LengthsOnAxes(OnAxes, LearnedLengths):
    """Learned lengths of a table that was turned onto its principal axes before."""


class Remembered(FitModule):
    """Leaves the state of its optimizer to `MomentsCarried`."""

    left: ClassVar[dict[str, Any] | None] = None

    def on_fit_end(self) -> None:
        """Nothing else is new."""
        super().on_fit_end()
        Remembered.left = self._weight_optimizer().state_dict()


class MomentsCarried(SearchModule):
    """The weights go on with the moments that the warm start ended with, and with a learning rate of their own."""

    def on_fit_start(self) -> None:
        """Takes them."""
        super().on_fit_start()
        optimizer = self.optimizers(use_pl_optimizer=False)[0]  # type: ignore[index]  # Lightning's would load a copy
        assert Remembered.left is not None, "a warm start comes before"
        optimizer.load_state_dict(Remembered.left | {"param_groups": optimizer.state_dict()["param_groups"]})


class ShrunkAsGated(SearchModule):
    """L2 on the rows behind the gates, so that a row that a gate has made small is not held from growing back."""

    def training_loss(self, prediction: Prediction, batch: Batch) -> Tensor:
        """The objective, of gated rows."""
        return super().training_loss(prediction._replace(rows=self.selection(prediction.rows, batch.features)), batch)


class SharedPrior(SearchModule):
    """With as many blocks as there are groups of a few features: the gradient of each, and as much of its neighbours'.

    Blocks are ordered by frequency, so that those beside a block are alike (where each field has blocks of its own, but
    for those on either side of a bound between fields); their mean is what a block without rows of its own goes by.
    """

    def _penalised(self, gradient: Tensor) -> tuple[Tensor, Tensor | float]:
        sums = torch.nn.functional.pad(gradient.cumsum(0), (0, 0, 1, 0))
        places = torch.arange(len(gradient), device=gradient.device)
        first, last = (places - NEIGHBOURS).clamp(min=0), (places + NEIGHBOURS + 1).clamp(max=len(gradient))
        prior = (sums[last] - sums[first]) / (last - first).unsqueeze(1)
        return super()._penalised(gradient + prior)


class Given(SearchModule):
    """Gates that are the mean of those of other runs, and stand still. runs: their folders."""

    runs: tuple[Path, ...] = ()

    @cached_property
    def mean(self) -> Tensor:
        """(L, K) of the gates of those runs."""
        return torch.stack([load_best(RunFolder(run))["recommender"][GATES] for run in self.runs]).mean(0)

    def descend_gates(self, train: Batch, search: Batch) -> None:
        """Back to the mean after each step."""
        super().descend_gates(train, search)
        self.selection.gates.data.copy_(self.mean)


@dataclass(frozen=True)
class FromTheStart(OneShot):
    """What a cut keeps is trained from its initial values, instead of from those that it has."""

    def steps(self, entries: int, kept: int) -> list[CutStep]:
        """One step."""
        return [replace(step, fresh=True) for step in super().steps(entries, kept)]


class ByHand(Uniform):
    """Rows as long as was said, block by block, without a search."""

    lengths: ClassVar[tuple[int, ...]] = ()

    def trials(self, blocks: Blocks) -> Generator[Trial, TrialResult, None]:
        """One."""
        yield replace(next(super().trials(blocks)), block_dims=self.lengths)


def finer_mask(
    model: Recommender,
    budget: Budget,
    pruning: Pruning,
    importance: Importance,
    whole: int,
    fits: Callable[[Tensor], bool],
) -> Tensor:
    """(N, K) bool: first dimensions of a quarter more entries than may be kept, of which those that count least go."""
    if pruning.by != "prefix":  # the second way of prune=best
        return cut_mask(model, budget, pruning, importance, whole, fits)
    if budget.rate is None:
        raise ConfigError(f"finer: {budget.name} is no share of the entries; take a budget as 10% or cr:20")
    mask = cut_mask(model, replace(budget, rate=budget.rate / MORE), pruning, importance, whole, fits)
    worth, own = importance.by_table(model, pruning.frequency_power)
    return largest(worth, most_entries(whole, budget.rate), mask.view_as(own)).view_as(mask)


@dataclass(frozen=True)
class ByLossOfSelect(Importance):
    """s whose Σ s² over a dimension of a block is what the metric on select loses without that dimension.

    Within it features go by what they move the logits, as ever; where select loses nothing, they count for next to
    nothing. block_of (N,), of `blocks` blocks. score: of a model on select, smaller is better.
    """

    block_of: Tensor
    blocks: int
    score: Callable[[Recommender], float]
    _loss: list[Tensor] = field(default_factory=list)

    def by_table(self, model: Recommender, power: float) -> tuple[Tensor, Tensor]:
        """As ever, but for how blocks and dimensions compare."""
        worth, own = super().by_table(model, power)
        squares = worth.view(len(self.block_of), -1).square()
        if not self._loss:
            self._loss.append(self._losses(model))
        loss = self._loss[0].clamp(min=LEAST_LOSS)
        sums = squares.new_zeros(self.blocks, squares.shape[1]).index_add_(0, self.block_of, squares)
        sums = sums.sum_to_size(loss.shape)
        per_square = loss / sums.clamp(min=torch.finfo(sums.dtype).tiny)
        return squares.mul_(per_square[self.block_of]).sqrt_().view_as(worth), own

    def _losses(self, model: Recommender) -> Tensor:
        """(L, K) how much worse the model is on select without each dimension of a block, all else as it is."""
        return self._worse(model, [slice(k, k + 1) for k in range(model.merged_table().shape[1])], 0.0)

    def _worse(self, model: Recommender, columns: list[slice], factor: float) -> Tensor:
        """(L, C) how much worse the model is on select with such columns of a block multiplied by the factor."""
        whole = model.merged_table()
        probe = model.cut_copy(torch.ones_like(whole, dtype=torch.bool))
        losses, before = whole.new_zeros(self.blocks, len(columns)), self.score(probe)
        for block in range(self.blocks):
            inside = (self.block_of == block)[:, None]
            for number, column in enumerate(columns):
                cut = whole.clone()
                cut[:, column] *= torch.where(inside, factor, 1.0)
                probe.keep(cut, None)
                losses[block, number] = self.score(probe) - before
        return losses


@dataclass(frozen=True)
class ByGradientOfSelect(ByLossOfSelect):
    """s whose Σ s² over a block is what select loses per unit of its scale: the raw gradient of one gate a block.

    Within it entries go by what they move the logits.
    """

    def _losses(self, model: Recommender) -> Tensor:
        """(L, 1) by the difference that a small step makes."""
        return self._worse(model, [slice(None)], 1 - SHRUNK) / SHRUNK


SEARCHES: dict[str, type[SearchModule]] = {
    "noise": Noise,
    "magnitude": Magnitude,
    "between-blocks": ComparedBetweenBlocks,
    "frozen-where-noise": FrozenWhereNoise,
    "steered": Steered,
    "growing": Growing,
    "ordered": Ordered,
    "learned-lengths": LearnedLengths,
    "lengths-on-axes": LengthsOnAxes,
    "shrunk-as-gated": ShrunkAsGated,
    "shared-prior": SharedPrior,
    "given": Given,
}
SWAPPED = "swapped"
"""The gates see the rows of select, and those of search choose."""
MOMENTS = "moments-carried"
FROM_THE_START = "from-the-start"
FINER = "finer"
BY_SELECT = {"by-loss-of-select": ByLossOfSelect, "by-gradient-of-select": ByGradientOfSelect}
BY_HAND = "lengths"
CONSTANTS = {
    "every-rival": ("RIVAL_MARGIN", math.inf),  # single entries are trained, however far they are behind before it
    "start-uncut": ("LEAD", math.inf),  # the table before the search never stays
    "any-lead": ("LEAD", 0.0),
}
"""Of `cutting`, what they are in place of what they are there."""
UNSEEN_UNCOUNTED = "unseen-uncounted"
"""The row of unseen ids counts for the rows of train that have it, which may be none."""
NAMES = (*SEARCHES, SWAPPED, MOMENTS, FROM_THE_START, FINER, *BY_SELECT, BY_HAND, *CONSTANTS, UNSEEN_UNCOUNTED)


def main() -> None:
    """Replace what the first argument names, and run the main command with the others.

    given:FOLDER:FOLDER names the runs whose gates are taken, lengths:8:8:4 the dimensions of each block, steered:20
    the percentage of the gates that is to stay, 10 where none is said.
    """
    if len(sys.argv) < 2 or (name := sys.argv[1].partition(":")[0]) not in NAMES:
        sys.exit(f"usage: python -m benchmarks.untaken {'|'.join(NAMES)} [key=value ...]")
    what = sys.argv.pop(1)
    _, *told = what.split(":")
    if not _understood(name, told):
        sys.exit(f"{what}: expected lengths:8:8:4, given:FOLDER:FOLDER, steered:20, or another name alone")
    if name == BY_HAND:
        ByHand.lengths = tuple(map(int, told))
    if name == "steered" and told:
        Steered.density = int(told[0]) / 100
    Given.runs = tuple(map(Path, told))
    if not any(argument.startswith("output_dir=") for argument in sys.argv):
        sys.argv.append(f"output_dir=outputs/untaken/{slug(what)}")  # else it would pass for a run of the recipe
    with _replaced(name):
        sys.exit(command.execute())


def _understood(name: str, told: list[str]) -> bool:
    """Whether what stands behind a name, with colons between, is what it takes."""
    if name == "given":
        return bool(told) and all(told)
    if not all(map(str.isdigit, told)):
        return False
    if name == "steered":
        return len(told) <= 1 and all(0 < int(one) < 100 for one in told)
    return bool(told) == (name == BY_HAND)


def _replaced(name: str) -> AbstractContextManager[Any]:
    if name == SWAPPED:
        return patch.object(build, "prepare", _swapped(build.prepare))
    if name == FROM_THE_START:
        return patch.object(build, "OneShot", FromTheStart)
    if name == FINER:
        return patch.object(cutting, "cut_mask", finer_mask)
    if name in BY_SELECT:
        return patch.object(Run, "_new_importance", _by_select(BY_SELECT[name], Run._new_importance))
    if name == BY_HAND:
        return patch.object(none, "Uniform", ByHand)
    if name in CONSTANTS:
        return patch.object(cutting, *CONSTANTS[name])
    if name == UNSEEN_UNCOUNTED:
        return patch.object(Run, "_new_importance", _uncounted(Run._new_importance))
    if name == MOMENTS:
        return patch.multiple(phases, SearchModule=MomentsCarried, FitModule=Remembered)
    return patch.object(phases, "SearchModule", SEARCHES[name])


def _by_select(kind: type[ByLossOfSelect], new_importance: Callable[[Run], Importance]) -> Callable[[Run], Importance]:
    def by_select(run: Run) -> Importance:
        ever, blocks = new_importance(run), run.blocks
        return kind(
            ever.frequency,
            ever.sensitivity,
            torch.as_tensor(blocks.block_of, dtype=torch.int64),
            blocks.count,
            run.judge.cost_of,
        )

    return by_select


def _uncounted(new_importance: Callable[[Run], Importance]) -> Callable[[Run], Importance]:
    def uncounted(run: Run) -> Importance:
        return replace(new_importance(run), frequency=torch.as_tensor(run.prepared.vocabulary.frequency))

    return uncounted


def _swapped(prepare: Any) -> Any:
    def swapped(*arguments: Any, **more: Any) -> Any:
        prepared = prepare(*arguments, **more)
        parts = prepared.parts
        return replace(prepared, parts=parts | {"search": parts["select"], "select": parts["search"]})

    return swapped


if __name__ == "__main__":
    main()
