"""A recommender model: embed, select, interact (equations 1, 4 and 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dnis_lightning.batch import Batch
from dnis_lightning.embedding.selection import SoftSelection
from dnis_lightning.embedding.table import EmbeddingTable, FirstOrder, fill_with_field_means

GATES = "selection.gates"
"""The name of α among a recommender's parameters."""


@dataclass(frozen=True)
class FeatureSpace:
    """What a model has to know of the features: how many, in which fields, and which no training row shows.

    offsets (F + 1,): field f owns the table rows offsets[f] … offsets[f + 1] − 1.
    unseen: table rows that occur nowhere in the training rows.
    """

    offsets: tuple[int, ...]
    unseen: tuple[int, ...] = ()

    @property
    def features(self) -> int:
        """N."""
        return self.offsets[-1]

    @property
    def fields(self) -> int:
        """F."""
        return len(self.offsets) - 1

    def bounds_of_unseen(self) -> list[tuple[int, int]]:
        """For each unseen row, the first and the end row of its field."""
        fields = np.searchsorted(self.offsets, self.unseen, side="right") - 1
        return [(self.offsets[field], self.offsets[field + 1]) for field in fields]


class Prediction(NamedTuple):
    """Logits (B,), and what L2 looks at: rows (B, F, K) before the gates, first-order terms (B, F) or None."""

    logits: Tensor
    rows: Tensor
    terms: Tensor | None


class Recommender(nn.Module):
    """Table, gates and interaction; first-order terms and the global bias are its own.

    A batch's values multiply rows and first-order terms: the paper's scalar features.
    """

    def __init__(
        self,
        space: FeatureSpace,
        interaction: nn.Module,
        *,
        dims: int,
        std: float = 0.01,
        first_order: bool = True,
        global_bias: float | None = 0.0,
    ) -> None:
        super().__init__()
        self.space = space
        self.table = EmbeddingTable(space.features, dims * getattr(interaction, "tables", 1), std)
        self.selection: SoftSelection | None = None
        self.interaction = interaction
        self.first_order = FirstOrder(space.features) if first_order else None
        self.global_bias = None if global_bias is None else nn.Parameter(torch.tensor(float(global_bias)))

    @property
    def gates(self) -> nn.Parameter | None:
        """α (L, K), or None where the model has no selection layer."""
        return None if self.selection is None else self.selection.gates

    def forward(self, batch: Batch) -> Prediction:
        """The logits of a batch, with the rows and terms that made them."""
        rows = self.table(batch.ids)
        gated = rows if self.selection is None else self.selection(rows, batch.ids)
        logits = self.interaction(gated if batch.values is None else gated * batch.values.unsqueeze(-1), batch)
        terms = None if self.first_order is None else self.first_order(batch.ids)
        if terms is not None:
            logits = logits + (terms if batch.values is None else terms * batch.values).sum(-1)
        return Prediction(logits if self.global_bias is None else logits + self.global_bias, rows, terms)

    def fill_unseen(self) -> None:
        """Give features that no training row shows the mean row and the mean first-order term of their field."""
        unseen, bounds = self.space.unseen, self.space.bounds_of_unseen()
        fill_with_field_means(self.table.weight, unseen, bounds)
        if self.table.mask is not None:
            self.table.weight.data.mul_(self.table.mask)
        if self.first_order is not None:
            fill_with_field_means(self.first_order.weight, unseen, bounds)

    def merged_table(self) -> Tensor:
        """Ẽ (N, K), the table with the gates multiplied in; the weights themselves where there are no gates."""
        weight = self.table.weight.detach()
        return weight.clone() if self.selection is None else self.selection.merge(weight)

    def tables(self) -> list[nn.Parameter]:
        """The parameters that are looked up by feature: E and the first-order terms."""
        return [self.table.weight] + ([] if self.first_order is None else [self.first_order.weight])

    def keep(self, table: Tensor, mask: Tensor | None) -> None:
        """Put a merged table in place of table and gates, holding what lies outside `mask` at 0 (equation 9)."""
        self.selection = None
        self.table.keep(table, mask)

    def weights(self) -> dict[str, Any]:
        """A copy of all tensors on the CPU, the mask included, as `load_weights` takes it."""
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.state_dict().items()}

    def rest(self) -> dict[str, Tensor]:
        """A copy of the weights outside table and gates, on the CPU."""
        return {
            name: tensor for name, tensor in self.weights().items() if not name.startswith(("table.", "selection."))
        }

    def load_rest(self, rest: Mapping[str, Tensor]) -> None:
        """Take what `rest` gave."""
        self.load_state_dict(self.state_dict() | dict(rest))

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Take what `weights` gave, of this model or of one built alike; a mask comes and goes with it."""
        mask = weights.get("table.mask")
        self.table.mask = None if mask is None else mask.to(self.table.weight.device, copy=True)
        self.load_state_dict(weights)
