"""Grid search: the traditional way to a width, the same for all features."""

from __future__ import annotations

from collections.abc import Generator

from dnis_lightning.blocks import Blocks
from dnis_lightning.errors import ConfigError
from dnis_lightning.quantities import Count, Whole
from dnis_lightning.search.trial import Phase, Stopping, Trial, TrialResult


class GridSearch:
    """One trial for each width: first, first + stride, … up to base_dim (section 3.1 of the paper: 4, 8, …, 64).

    Raises ConfigError when base_dim is below the first width.
    """

    gated, projected = False, False

    def __init__(self, *, base_dim: Count, first: Whole, stride: Count, max_epochs: Count, patience: Count) -> None:
        if base_dim < first:
            raise ConfigError(f"search.base_dim: {base_dim}, below the first width, search.first={first}")
        self.widths = range(first, base_dim + 1, stride)
        self.trial_count = len(self.widths)
        self.stopping = Stopping(max_epochs, patience)

    def trials(self, blocks: Blocks) -> Generator[Trial, TrialResult, None]:
        """The trials, narrowest first."""
        for dims in self.widths:
            yield Trial(f"dim={dims}", (Phase("fit", "train+search", self.stopping),), dims=dims)
