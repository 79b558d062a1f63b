"""What an interaction may have beside `forward`, none of which it needs.

Two attributes, too: `pairs_at_once`, how many pairs of rows may be scored side by side, and `tables`, how many tables
it wants side by side, one where it does not say.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from dnis_lightning.batch import Batch


@runtime_checkable
class OfDistinct(Protocol):
    """Works on the distinct rows of a batch, each once."""

    def of_distinct(self, rows: Tensor, batch: Batch) -> Tensor:
        """Logits (B,); rows (U, K): those of the features in `batch.distinct`."""


@runtime_checkable
class OfPairs(Protocol):
    """Scores each of some rows with each of others."""

    def of_pairs(self, first: Tensor, second: Tensor) -> Tensor:
        """Logits (Q, M); first (Q, K), second (M, K): rows of the first field and of the second."""


@runtime_checkable
class Turns(Protocol):
    """Can take over a table that is turned onto its principal axes."""

    def turn(self, table: Tensor, weights: Tensor) -> Tensor:
        """(K, K): what the table is to be multiplied by; the interaction has changed so that logits stay as they are.

        table (N, K). weights (N,): how much each row counts.
        """
