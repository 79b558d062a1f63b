"""Random search over the widths of blocks."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from dnis_lightning.blocks import Blocks
from dnis_lightning.quantities import Count, Seed
from dnis_lightning.search.trial import Phase, Stopping, Trial, TrialResult


class RandomSearch:
    """`trial_count` random descending sequences of widths, one width a block (section 3.1 of the paper).

    The widths of a sequence are drawn from 1 … K, all equally likely and each by itself, and sorted: the most frequent
    block has the largest. A row holds the leading dimensions, the others are 0 (the paper's section 2.2).
    seed: draws the sequences.
    """

    gated, projected = False, False

    def __init__(self, *, base_dim: Count, trial_count: Count, seed: Seed, max_epochs: Count, patience: Count) -> None:
        self.base_dim, self.trial_count, self.seed = base_dim, trial_count, seed
        self.stopping = Stopping(max_epochs, patience)

    def trials(self, blocks: Blocks) -> Generator[Trial, TrialResult, None]:
        """The trials, as drawn."""
        rng = np.random.default_rng(self.seed)
        ranks = np.argsort(np.argsort(-blocks.frequency, kind="stable"))
        for number in range(self.trial_count):
            descending = np.sort(rng.integers(1, self.base_dim + 1, blocks.count))[::-1]
            widths = tuple(descending[ranks].tolist())
            yield Trial(f"draw={number}", (Phase("fit", "train+search", self.stopping),), block_dims=widths)
