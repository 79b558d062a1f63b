"""Mixed Dimension Embeddings: widths from frequencies by a power law."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import product
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from dnis_lightning.blocks import Blocks
from dnis_lightning.quantities import Count
from dnis_lightning.search.trial import Phase, Stopping, Trial, TrialResult

Share = Annotated[float, Field(ge=0, le=1)]
Rounding = Literal["nearest", "power_of_two"]


class MDE:
    """One trial for each temperature τ and base dimension d̄ (Ginart et al. 2019, algorithm 2, their α is τ here).

    A block's rows have d_l ∝ p_l^τ dimensions, p_l being the probability that a feature of the block occurs, averaged
    over its features; the widest block has d̄. Rows of fewer than K dimensions are widened to K by a projection learned
    with them (`projected`), or by zeros, as the DNIS authors' code does.
    base_dims: each d̄ as a share of K. rounding: to whole numbers, or to powers of two as Ginart et al. do.
    """

    gated = False

    def __init__(
        self,
        *,
        base_dim: Count,
        temperatures: Annotated[list[Share], Field(min_length=1)],
        base_dims: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)],
        rounding: Rounding,
        projected: bool,
        max_epochs: Count,
        patience: Count,
    ) -> None:
        widths = dict.fromkeys(max(1, round(share * base_dim)) for share in base_dims)
        self.settings = list(product(dict.fromkeys(temperatures), widths))
        self.trial_count = len(self.settings)
        self.rounding, self.projected = rounding, projected
        self.stopping = Stopping(max_epochs, patience)

    def trials(self, blocks: Blocks) -> Generator[Trial, TrialResult, None]:
        """The trials: all base dimensions of the smallest temperature, then of the next."""
        for temperature, base in self.settings:
            yield Trial(
                f"tau={temperature:g},base={base}",
                (Phase("fit", "train+search", self.stopping),),
                block_dims=power_law(blocks.frequency, temperature, base, self.rounding),
                projected=self.projected,
            )


def power_law(
    frequency: np.ndarray | Sequence[float], temperature: float, base: int, rounding: Rounding
) -> tuple[int, ...]:
    """Widths d_l = base · (p_l / max p)^τ, rounded, at least 1 and at most `base`.

    frequency (L,): how often a feature of each block occurs, on the average; only the ratios count.
    """
    p = np.asarray(frequency, dtype=np.float64)
    widths = base * (p / max(p.max(), 1e-300)) ** temperature
    if rounding == "power_of_two":
        with np.errstate(divide="ignore"):
            widths = 2.0 ** np.round(np.log2(np.maximum(widths, 1)))
    return tuple(int(width) for width in np.clip(np.round(widths), 1, base))
