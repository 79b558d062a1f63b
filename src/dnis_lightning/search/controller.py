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

    Each of the C choices of each of the D decisions keeps, in the field of the decision, a number of its most frequent
    blocks in a range of parts; the table keeps what any of them does. The last choice keeps most.

    field (D,), rows (D, C), first (D, C), end (D, C): of decisions and choices, the field, the number of blocks, and
    the parts first … end − 1. there (D, C) bool: which choices there are. block_field (L,), place (L,): of each block
    the field, and how many of its blocks are more frequent. entries (L, T): how many the table has in each.
    """

    field: Tensor
    rows: Tensor
    first: Tensor
    end: Tensor
    there: Tensor
    block_field: Tensor
    place: Tensor
    entries: Tensor

    @classmethod
    def of(cls, blocks: Blocks, widths: Sequence[int], sizes: Sizes) -> Decisions:
        """Those of Joglekar et al. 2020 for blocks of which each field has its own (`field_of`), most frequent first.

        `single`: one decision a field, how many of its blocks and how many parts, the first ones of either. `multi`: a
        decision for each field and part, how many of the field's blocks have this part. In both, nothing is a choice.
        widths (T,): of the parts.
        """
        block_field = torch.from_numpy(blocks.field_of).long()
        counts = torch.bincount(block_field)
        place = torch.arange(blocks.count) - (counts.cumsum(0) - counts)[block_field]
        decisions = [
            (number, choices)
            for number, count in enumerate(counts.tolist())
            if count
            for choices in _CHOICES[sizes](count, len(widths))
        ]
        most = max(len(choices) for _, choices in decisions)
        there = torch.tensor([[False] * (most - len(choices)) + [True] * len(choices) for _, choices in decisions])
        padded = [[(0, 0, 0)] * (most - len(choices)) + choices for _, choices in decisions]
        rows, first, end = torch.tensor(padded).unbind(-1)
        field = torch.tensor([number for number, _ in decisions])
        entries = torch.from_numpy(blocks.sizes).double()[:, None] * torch.tensor(list(widths)).double()
        return cls(field, rows, first, end, there, block_field, place, entries)

    def kept(self, choice: Tensor) -> Tensor:
        """(L, T) bool: what is kept by a choice for each decision, (D,)."""
        rows, first, end = (each.gather(1, choice[:, None]) for each in (self.rows, self.first, self.end))
        of_blocks = (self.block_field == self.field[:, None]) & (self.place < rows)  # (D, L)
        part = torch.arange(self.entries.shape[1])
        of_parts = (part >= first) & (part < end)  # (D, T)
        return (of_blocks.float().T @ of_parts.float()) > 0

    def share(self, kept: Tensor) -> float:
        """Of all entries, those in the kept parts."""
        return float((self.entries * kept).sum() / self.entries.sum())


def _single(blocks: int, parts: int) -> list[list[_Choice]]:
    sized = [(rows, 0, end) for rows in range(1, blocks + 1) for end in range(1, parts + 1)]
    return [[(0, 0, 0), *sized]]


def _multi(blocks: int, parts: int) -> list[list[_Choice]]:
    return [[(rows, part, part + 1) for rows in range(blocks + 1)] for part in range(parts)]


_Choice = tuple[int, int, int]
_CHOICES = {"single": _single, "multi": _multi}
"""The choices of each decision about a field, by the numbers of its blocks and of the parts."""


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
