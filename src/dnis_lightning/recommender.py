"""A recommender model: embed, select, interact (equations 1, 4 and 2)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dnis_lightning.batch import Batch
from dnis_lightning.embedding.mixed import MixedTable
from dnis_lightning.embedding.selection import SoftSelection
from dnis_lightning.embedding.table import EmbeddingTable, FirstOrder, fill_with_field_means
from dnis_lightning.embedding.threshold import SoftThreshold
from dnis_lightning.interaction.abilities import OfDistinct, OfPairs, Turns
from dnis_lightning.interaction.axes import principal_axes
from dnis_lightning.lookup import Gather, bag, gather, take
from dnis_lightning.scheme import Scheme

GATES = "selection.gates"
"""The name of α among a recommender's parameters."""
_PAIRS_AT_ONCE = 1 << 15


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
    """Logits (B,), and what L2 looks at.

    rows (B, C, K), or (U, K) where the batch has its distinct features: before the gates, but after projections and
    thresholds. terms (B, C) or (U,): of first order, or None.
    net: Σ ‖W‖² over the interaction's weight matrices; None where it has none, or no gradient is recorded. It is here
    and not in the objective, because the hypergradient needs it of weights that are not the module's own.
    """

    logits: Tensor
    rows: Tensor
    terms: Tensor | None
    net: Tensor | None


class Recommender(nn.Module):
    """Table, gates and interaction; first-order terms and the global bias are its own.

    A batch's values multiply rows and first-order terms: the paper's scalar features.
    table: what gives the rows; None for one table with `dims` dimensions for every feature. turned: see `turn`.
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
        table: EmbeddingTable | MixedTable | None = None,
    ) -> None:
        super().__init__()
        self.space = space
        self.table = table or EmbeddingTable(space.features, dims * tables_of(interaction), std)
        self.selection: SoftSelection | SoftThreshold | None = None
        self.interaction = interaction
        self.first_order = FirstOrder(space.features) if first_order else None
        self.global_bias = None if global_bias is None else nn.Parameter(torch.tensor(float(global_bias)))
        self.turned = False

    @property
    def gates(self) -> nn.Parameter | None:
        """α (L, K), or None where the model has no selection layer."""
        return self.selection.gates if isinstance(self.selection, SoftSelection) else None

    def forward(self, batch: Batch, gather: Gather = gather) -> Prediction:
        """The logits of a batch, with the rows and terms that made them.

        gather: how rows are looked up; of a batch with its distinct features each is asked for once.
        """
        features = batch.features
        rows = self.table(features, gather)
        gated = rows if self.selection is None else self.selection(rows, features)
        logits = self._interacted(gated, batch)
        terms = None if self.first_order is None else self.first_order(features, gather)
        if terms is not None:
            logits = logits + _sum_of(terms, batch)
        if self.global_bias is not None:
            logits = logits + self.global_bias
        penalised = gated if isinstance(self.selection, SoftThreshold) else rows
        there = batch.there() if batch.distinct is None else None
        if there is not None:  # where a list has ended, there is nothing to shrink
            penalised, terms = penalised * there.unsqueeze(-1), None if terms is None else terms * there
        return Prediction(logits, penalised, terms, self._net() if torch.is_grad_enabled() else None)

    def _interacted(self, rows: Tensor, batch: Batch) -> Tensor:
        """Logits (B,) of the interaction; rows (B, C, K), or (U, K) where the batch has its distinct features."""
        if batch.distinct is None:
            return self.interaction(_pooled(rows, batch), batch)
        if batch.offsets is None and isinstance(self.interaction, OfDistinct):
            return self.interaction.of_distinct(rows, batch)
        return self.interaction(_pooled(take(rows, batch.distinct), batch), batch)

    def scores(self, users: Tensor, items: Tensor, user_column: int = 0) -> Tensor:
        """Logits (Q, M) of each of the users (Q,) with each of the items (M,), or with some of its own (Q, M).

        Users and items are table rows of two fields, of which that of the user is in column `user_column`; where there
        is no item, as −1 says, a logit is that of any other. Interactions that are `OfPairs` get each row once, and not
        once for each pair.
        """
        pairs = getattr(self.interaction, "pairs_at_once", _PAIRS_AT_ONCE)
        at_once = max(pairs // max(items.shape[-1], 1), 1)
        if items.ndim == 2 or not isinstance(self.interaction, OfPairs):
            parts = zip(users.split(at_once), items.expand(len(users), -1).split(at_once), strict=True)
            return torch.cat([self._of_each_pair(some, own, user_column) for some, own in parts])
        of_pairs, rows, others = self.interaction.of_pairs, self._gated(users), self._gated(items)
        found = [
            of_pairs(some, others) if not user_column else of_pairs(others, some).T for some in rows.split(at_once)
        ]
        logits = torch.cat(found)
        if self.first_order is not None:
            logits += self.first_order(users, gather)[:, None] + self.first_order(items, gather)
        return logits if self.global_bias is None else logits.add_(self.global_bias)

    def _of_each_pair(self, users: Tensor, items: Tensor, user_column: int) -> Tensor:
        """Logits (Q, M) of users (Q,) with items (Q, M), as of any other batch."""
        pair = [users[:, None].expand_as(items), items.clamp(min=0)]
        ids = torch.stack(pair if not user_column else pair[::-1], dim=-1).flatten(0, 1)
        return self(Batch(ids, torch.zeros(len(ids), device=ids.device))).logits.view_as(items)

    def _gated(self, features: Tensor) -> Tensor:
        rows = self.table(features, gather)
        return rows if self.selection is None else self.selection(rows, features)

    def compile_interaction(self) -> None:
        """Let torch.compile make code of the interaction when it is first used: of its parts, where these are called.

        Batches of each size have their own, so that it does not depend on which comes first. That of other models is
        forgotten: there may not be much in a process.
        """
        torch.compiler.reset()
        whole = not isinstance(self.interaction, OfDistinct)
        for part in (self.interaction,) if whole else self.interaction.children():
            part.compile(dynamic=False)

    def fill_unseen(self) -> None:
        """Give features that no training row shows the mean row and the mean first-order term of their field."""
        unseen, bounds = self.space.unseen, self.space.bounds_of_unseen()
        self.table.fill_with_means(unseen, bounds)
        if self.first_order is not None:
            fill_with_field_means(self.first_order.weight, unseen, bounds)

    def merged_table(self) -> Tensor:
        """Ẽ (N, K), a copy: the table with gates or thresholds merged in, zeros where it holds no entry."""
        entries = self.table.entries()
        return entries if self.selection is None else self.selection.merge(entries)

    @torch.no_grad()
    def turn(self, weights: Tensor) -> bool:
        """Turn the merged table onto its principal axes, the one with the largest part first; logits stay as they are.

        The axes are the eigenvectors of Σ_i w_i ẽ_i ẽ_iᵀ, w = weights (N,). L2 and inner products have no preferred
        axes, so each dimension of a table as it is trained has some of everything; turned, most is in the first ones.
        Gates are merged in. An interaction that `Turns` takes the turned table over; of others the table turns its rows
        back (`EmbeddingTable.rotate`). Returns whether that was possible: all rows have to have all dimensions, some,
        and one that asks for several tables has to be such an interaction.
        """
        table, interaction = self.table, self.interaction
        if not isinstance(table, EmbeddingTable) or table.mask is not None or isinstance(self.selection, SoftThreshold):
            return False
        if not table.weight.shape[1] or (tables_of(interaction) > 1 and not isinstance(interaction, Turns)):
            return False
        merged = self.merged_table()
        if isinstance(interaction, Turns):
            self.keep(merged @ interaction.turn(merged, weights), None)
        else:
            axes = principal_axes(merged, weights)
            self.keep(merged @ axes, None)
            table.rotate(axes.T if table.rotation is None else axes.T @ table.rotation)
        self.turned = True
        return True

    def scheme(self) -> Scheme:
        """The merged table as a mixed dimension scheme."""
        kept = self.table.kept().cpu().numpy()
        return Scheme.from_dense(self.merged_table().cpu().numpy(), kept, self.table.projection_arrays())

    def tables(self) -> list[nn.Parameter]:
        """The parameters that are looked up by feature: E and the first-order terms."""
        return self.table.parameters_by_feature() + ([] if self.first_order is None else [self.first_order.weight])

    def keep(self, table: Tensor, mask: Tensor | None) -> None:
        """Put a merged table in place of table and gates, holding what lies outside `mask` at 0 (equation 9)."""
        self.selection = None
        self.table.keep(table, mask)

    def cut_copy(self, mask: Tensor) -> Recommender:
        """The model with the entries within a mask alone: a copy, which shares all weights but the table's."""
        made = copy.copy(self)
        made._modules = {**self._modules, "table": copy.deepcopy(self.table)}
        made.keep(self.merged_table(), mask)
        return made

    def rest(self) -> dict[str, Tensor]:
        """A copy of the weights outside table and gates, on the CPU."""
        return {
            name: tensor.to("cpu", copy=True)
            for name, tensor in self.state_dict().items()
            if not name.startswith(("table.", "selection."))
        }

    def load_rest(self, rest: Mapping[str, Tensor]) -> None:
        """Take what `rest` gave. Raises RuntimeError where that is of another model."""
        found = self.load_state_dict(dict(rest), strict=False)
        absent = [name for name in found.missing_keys if not name.startswith(("table.", "selection."))]
        if absent or found.unexpected_keys:
            raise RuntimeError(f"weights of another model: {', '.join([*absent, *found.unexpected_keys][:3])}")

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Take what `state_dict` gave, of this model or of one built alike; mask and rotation come and go with it."""
        mask = weights.get("table.mask")
        if isinstance(self.table, EmbeddingTable):
            self.table.rotate(weights.get("table.rotation"))
        self.table.mask = None if mask is None else mask.to(next(self.table.parameters()).device, copy=True)
        self.load_state_dict(weights)

    def _net(self) -> Tensor | None:
        matrices = [parameter for parameter in self.interaction.parameters() if parameter.ndim > 1]
        return torch.stack([matrix.square().sum() for matrix in matrices]).sum() if matrices else None


def _sum_of(terms: Tensor, batch: Batch) -> Tensor:
    """(B,) the terms (B, C), or (U,) of the distinct features, of each row, times the batch's values."""
    if batch.distinct is not None:
        return bag(terms.unsqueeze(-1), batch.distinct, batch.values).squeeze(-1)
    return (terms if batch.values is None else terms * batch.values).sum(-1)


def _pooled(rows: Tensor, batch: Batch) -> Tensor:
    """Rows (B, C, K) times the batch's values, summed over the columns of each field: (B, F, K)."""
    if batch.values is not None:
        rows = rows * batch.values.unsqueeze(-1)
    if batch.offsets is None:
        return rows
    columns = torch.arange(rows.shape[1], device=rows.device)[:, None]
    is_of = (columns >= batch.offsets[:-1]) & (columns < batch.offsets[1:])
    return torch.einsum("bck,cf->bfk", rows, is_of.to(rows.dtype))


def tables_of(interaction: nn.Module) -> int:
    """How many tables side by side an interaction asks for."""
    return int(getattr(interaction, "tables", 1))
