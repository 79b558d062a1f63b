"""The controller of neural input search: which parts of the table to keep, learned by policy gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from dnis_lightning.blocks import Blocks

Sizes = Literal["single", "multi"]


@dataclass(frozen=True, eq=False)
class Decisions:
    """What is to be decided of a table that is cut into L blocks of features × T parts of its dimensions.

    options (D, C, L, T) bool: which of these each of the C choices of each of the D decisions keeps; the table keeps
    what any of them does. The last choice keeps most. there (D, C) bool: which choices there are. entries (L, T): how
    many the table has in each.
    """

    options: Tensor
    there: Tensor
    entries: Tensor

    @classmethod
    def of(cls, blocks: Blocks, widths: Sequence[int], sizes: Sizes) -> Decisions:
        """Those of Joglekar et al. 2020 for blocks of which each field has its own (`field_of`), most frequent first.

        `single`: one decision a field, how many of its blocks and how many parts, the first ones of either. `multi`: a
        decision for each field and part, how many of the field's blocks have this part. In both, nothing is a choice.
        widths (T,): of the parts.
        """
        fields = [np.flatnonzero(blocks.field_of == field) for field in np.unique(blocks.field_of)]
        decisions = [choices for own in fields for choices in _CHOICES[sizes](own, len(widths))]
        most = max(map(len, decisions))
        options = torch.zeros(len(decisions), most, blocks.count, len(widths), dtype=torch.bool)
        there = torch.zeros(len(decisions), most, dtype=torch.bool)
        for number, choices in enumerate(decisions):
            first = most - len(choices)  # the last choice of each is the one that keeps most
            there[number, first:] = True
            for place, (rows, cols) in enumerate(choices, first):
                options[number, place, torch.from_numpy(rows), cols] = True
        entries = torch.from_numpy(blocks.sizes).double()[:, None] * torch.tensor(list(widths)).double()
        return cls(options, there, entries)

    def kept(self, choice: Tensor) -> Tensor:
        """(L, T) bool: what is kept by a choice for each decision, (D,)."""
        return self.options[torch.arange(len(choice)), choice].any(0)

    def share(self, kept: Tensor) -> float:
        """Of all entries, those in the kept parts."""
        return float((self.entries * kept).sum() / self.entries.sum())


def _single(own: np.ndarray, parts: int) -> list[list[_Cells]]:
    sized = [(own[:rows], slice(cols)) for rows in range(1, len(own) + 1) for cols in range(1, parts + 1)]
    return [[(own[:0], slice(0)), *sized]]


def _multi(own: np.ndarray, parts: int) -> list[list[_Cells]]:
    return [[(own[:rows], slice(part, part + 1)) for rows in range(len(own) + 1)] for part in range(parts)]


_Cells = tuple[np.ndarray, slice]
_CHOICES = {"single": _single, "multi": _multi}
"""The choices of each decision about a field, by the numbers of its blocks and how many parts there are."""


class Controller(nn.Module):
    """π(c) = Π_d softmax(logits_d)[c_d], and its policy gradient (Williams 1992, REINFORCE).

    For a few choices drawn at a time, the baseline of each is the mean reward of the others (Kool et al. 2019), so that
    how hard a batch is has no part in it.

    decisions: what there is to choose. seed: of the draws, which are counted, so that a resumed run draws on.
    """

    logits: nn.Parameter
    draws: Tensor

    def __init__(self, decisions: Decisions, seed: int = 0) -> None:
        super().__init__()
        self.decisions, self.seed = decisions, seed
        self.logits = nn.Parameter(torch.zeros(decisions.there.shape), requires_grad=False)
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))

    def chances(self) -> Tensor:
        """π, (D, C), on the CPU."""
        return self.logits.detach().cpu().masked_fill(~self.decisions.there, -torch.inf).softmax(-1)

    def sample(self) -> Tensor:
        """(D,) a choice for each decision, drawn from π."""
        uniform = np.random.default_rng([self.seed, int(self.draws)]).random(len(self.logits))
        self.draws += 1
        below = self.chances().double().cumsum(-1) < torch.from_numpy(uniform)[:, None]
        last = self.decisions.there.shape[1] - 1
        return below.sum(-1).clamp(max=last)

    def likeliest(self) -> Tensor:
        """(D,) the most likely choice of each; of equals the one that keeps most."""
        chances = self.chances()
        return chances.shape[1] - 1 - chances.flip(-1).argmax(-1)

    def learn(self, choices: Sequence[Tensor], rewards: Sequence[float], optimizer: Any) -> None:
        """Ascend E_π[reward] = Σ_c π(c) R(c), by an estimate from two choices or more and their rewards."""
        many, total = len(choices), sum(rewards)
        if not math.isfinite(total):
            return  # the training that gave them will stop by itself
        gradient, chances = torch.zeros(self.logits.shape), self.chances()
        for choice, reward in zip(choices, rewards, strict=True):
            advantage = reward - (total - reward) / (many - 1)
            taken = nn.functional.one_hot(choice, chances.shape[1]) - chances  # ∇ log π(choice)
            gradient += advantage * taken / many
        self.logits.grad = -gradient.to(self.logits)
        optimizer.step()

    def certainty(self) -> float:
        """The mean chance of the likeliest choices: 1 when all is decided."""
        return float(self.chances().amax(-1).mean())
