"""No search: a plain table of one width for all features."""

from __future__ import annotations

from collections.abc import Generator

from dnis_lightning.blocks import Blocks
from dnis_lightning.quantities import Count
from dnis_lightning.search.trial import Phase, Stopping, Trial, TrialResult


class Uniform:
    """One trial: `base_dim` dimensions for every feature, trained on train + search rows, as no gates need any."""

    trial_count = 1
    gated, projected = False, False

    def __init__(self, *, max_epochs: Count, patience: Count) -> None:
        self.stopping = Stopping(max_epochs, patience)

    def trials(self, blocks: Blocks) -> Generator[Trial, TrialResult, None]:
        """The one trial."""
        yield Trial("uniform", phases=(Phase("fit", rows="train+search", stopping=self.stopping),))
