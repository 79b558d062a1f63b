"""What becomes of the numbers of a numeric field: one value that multiplies an embedding, or bins with one each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Scaled:
    """A number becomes one value, in float32: (g(x) − shift) / scale; g is sign(x)·log(1 + |x|) if `log`, else x.

    The difference is taken in double precision: rounded to float32, the mean of numbers about 10^9 is up to 32 off.
    """

    log: bool = False
    shift: float = 0.0
    scale: float = 1.0

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """The values (R,) of numbers (R,); NaN stays NaN."""
        x = np.sign(numbers) * np.log1p(np.abs(numbers)) if self.log else numbers
        return (np.subtract(x, self.shift, dtype=np.float64) / self.scale).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` takes."""
        return {"log": self.log, "shift": self.shift, "scale": self.scale}


@dataclass(frozen=True, eq=False)
class Binned:
    """A number becomes one of len(edges) + 1 bins: bin b holds edges[b − 1] ≤ x < edges[b].

    counts (E + 1,): how many numbers of train are in each.
    """

    edges: np.ndarray
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """The bins (R,) of numbers (R,), int64; −1 for NaN."""
        bins = np.searchsorted(self.edges, numbers, side="right")
        bins[np.isnan(numbers)] = -1
        return bins

    def names(self) -> list[str]:
        """Each bin as text, such as `[3, 7.5)`."""
        ends = [f"{edge:.6g}" for edge in self.edges]
        return [f"[{low}, {high})" for low, high in zip(["-inf", *ends], [*ends, "inf"], strict=True)]

    def to_json(self) -> dict[str, Any]:
        """What `from_json` takes."""
        return {"edges": self.edges.tolist(), "counts": self.counts.tolist()}


Numbers = Scaled | Binned
"""What becomes of the numbers of one field."""


def from_json(told: dict[str, Any]) -> Numbers:
    """What `to_json` was called on. Raises KeyError or TypeError on anything else."""
    if "edges" not in told:
        return Scaled(**told)
    return Binned(np.asarray(told["edges"], dtype=np.float64), np.asarray(told["counts"], dtype=np.int64))
