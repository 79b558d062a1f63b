"""Other ways to move the gates, that were tried and not taken: the search with one part of it replaced.

    python -m benchmarks.untaken noise data=movielens-100k model=mf 'search.budget=[10%]' seed=0

runs the main command with that part replaced; `make ablation` runs them all, and holds them against the recipe.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from dnis_lightning import build, command
from dnis_lightning.batch import Batch
from dnis_lightning.blueprint import load_best
from dnis_lightning.folder import RunFolder
from dnis_lightning.recommender import GATES
from dnis_lightning.search.bilevel import normalise
from dnis_lightning.search.schedule import CutStep, OneShot
from dnis_lightning.training import phases
from dnis_lightning.training.search_module import SearchModule

DENSITY = 0.1
"""Where `Steered` takes the mean of the gates."""
NEIGHBOURS = 50
"""Blocks on either side, in the order of frequency, that `SharedPrior` takes a share of."""


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


class Steered(SearchModule):
    """No penalty is given: each step's is what takes the mean of the gates from 1 to `DENSITY`, evenly."""

    taken = 0

    def _penalised(self, gradient: Tensor) -> tuple[Tensor, Tensor | float]:
        self.taken += 1
        data = normalise(gradient, self.gate_step.epsilon)
        done = min(self.taken / self.trainer.estimated_stepping_batches, 1)
        excess = self.selection.gates.mean() - (1 - (1 - DENSITY) * done)
        penalty = (excess / self.gates_lr - data.mean()).clamp(min=0)
        return data + penalty, penalty


class SharedPrior(SearchModule):
    """With as many blocks as there are groups of a few features: the gradient of each, and as much of its neighbours'.

    Blocks are ordered by frequency, so that those beside a block are alike; their mean is what a block without rows
    of its own goes by.
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


SEARCHES: dict[str, type[SearchModule]] = {
    "noise": Noise,
    "magnitude": Magnitude,
    "between-blocks": ComparedBetweenBlocks,
    "steered": Steered,
    "shared-prior": SharedPrior,
    "given": Given,
}
SWAPPED = "swapped"
"""The gates see the rows of select, and those of search choose."""
FROM_THE_START = "from-the-start"
NAMES = (*SEARCHES, SWAPPED, FROM_THE_START)


def main() -> None:
    """Replace what the first argument names, and run the main command with the others.

    given:FOLDER:FOLDER names the runs whose gates are taken.
    """
    if len(sys.argv) < 2 or (name := sys.argv[1].partition(":")[0]) not in NAMES:
        sys.exit(f"usage: python -m benchmarks.untaken {'|'.join(NAMES)} [key=value ...]")
    Given.runs = tuple(map(Path, sys.argv.pop(1).split(":")[1:]))
    with _replaced(name):
        sys.exit(command.execute())


def _replaced(name: str) -> AbstractContextManager[Any]:
    if name == SWAPPED:
        return patch.object(build, "prepare", _swapped(build.prepare))
    if name == FROM_THE_START:
        return patch.object(build, "OneShot", FromTheStart)
    return patch.object(phases, "SearchModule", SEARCHES[name])


def _swapped(prepare: Any) -> Any:
    def swapped(*arguments: Any, **more: Any) -> Any:
        prepared = prepare(*arguments, **more)
        parts = prepared.parts
        return replace(prepared, parts=parts | {"search": parts["select"], "select": parts["search"]})

    return swapped


if __name__ == "__main__":
    main()
