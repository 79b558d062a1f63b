"""What an entry of a table counts for: how far the logits move where it is taken away."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dnis_lightning.batch import Batch
from dnis_lightning.errors import RunError
from dnis_lightning.lookup import gather
from dnis_lightning.paths import whole_file
from dnis_lightning.recommender import Recommender, tables_of
from dnis_lightning.search.bilevel import frozen

IMPORTANCE = "importance.safetensors"
"""The file in a run's folder that `Importance.save` writes."""
LEAST_COUNT = 0.5
"""What a feature counts for that is never to be expected."""
_ROWS = 1 << 16


@dataclass(frozen=True)
class Importance:
    """s_{i,j} = n_i^p √g_{f,j} |ẽ_{i,j}| of entry j of feature i of field f.

    With p = 1/2, s² is how far the logits of as many rows as train has move, squared and summed, where the entry is
    taken away, to first order and each entry for itself: what optimal brain damage (LeCun et al. 1990) asks of the
    loss, of the logits.
    frequency (N,): n, how often features are to be expected. sensitivity: of a model, g as `sensitivity` gives it.
    """

    frequency: Tensor
    sensitivity: Callable[[Recommender], Tensor]

    @property
    def counts(self) -> Tensor:
        """(N,) the frequencies, none below `LEAST_COUNT`."""
        return self.frequency.float().clamp(min=LEAST_COUNT)

    def by_table(self, model: Recommender, power: float) -> tuple[Tensor, Tensor]:
        """(N · C, K) s, and whether there is an entry, of each of C tables side by side; p = power."""
        table, there = model.merged_table(), model.table.kept()
        table.mul_((self.counts.to(table) ** power)[:, None])
        slopes, offsets = self.sensitivity(model).to(table).sqrt(), model.space.offsets
        for number, slope in enumerate(slopes):
            table[offsets[number] : offsets[number + 1]].mul_(slope)
        rows = len(table) * tables_of(model.interaction)
        return table.view(rows, -1), there.view(rows, -1)

    def save(self, path: Path, model: Recommender) -> None:
        """Write what a later cut of a model goes by, so that it needs no data. The model is turned, if it can be."""
        kept = {"frequency": self.frequency.contiguous()}
        if model.turn(self.counts):
            kept["sensitivity"] = self.sensitivity(model)
        with whole_file(path) as part:
            save_file(kept, part)

    @classmethod
    def load(cls, path: Path) -> Importance:
        """Read what `save` wrote.

        Raises RunError where that is not to be read, or, once it is asked for, has no sensitivity: an earlier version
        left none of a model that it could not turn.
        """
        try:
            kept = load_file(path)
            frequency = kept["frequency"]
        except (OSError, ValueError, KeyError, SafetensorError) as fault:
            raise RunError(f"{path}: cannot be read ({fault}); run the search again") from fault

        def sensitivity_of(model: Recommender) -> Tensor:
            if "sensitivity" not in kept:
                raise RunError(
                    f"{path}: it does not say how far entries move a logit; run the search again, or take --by elements"
                )
            return kept["sensitivity"]

        return cls(frequency, sensitivity_of)


@dataclass
class Sensitivity:
    """g of one model, over the rows of `batches`: of its whole table, which cuts start from, worked out once."""

    batches: Callable[[], Iterable[Batch]]
    _whole: Tensor | None = field(default=None, init=False)

    def __call__(self, model: Recommender) -> Tensor:
        """(F, K) g, anew of what a cut has left."""
        if model.table.mask is not None:
            return sensitivity(model, self.batches())
        if self._whole is None:
            self._whole = sensitivity(model, self.batches())
        return self._whole


def sensitivity(model: Recommender, batches: Iterable[Batch], most: int = _ROWS) -> Tensor:
    """(F, K) the mean of (∂ŷ / ∂e_{f,k})² over the features of field f in some rows, at most so many; ŷ the logit.

    Of a model without gates whose features have a table in common; K are the columns of all tables side by side. Labels
    are not looked at. Entries that there are no more have a part, too: as 0, and with what they would move.
    """
    weight = model.table.get_parameter("weight")
    total, counted, rows = torch.zeros(model.space.fields, weight.shape[1]), torch.zeros(model.space.fields, 1), 0
    with frozen(model), _unmasked(model), torch.enable_grad():
        for batch in batches:
            squares, there = _squares(model, weight, replace(batch, distinct=None))
            field_of = _field_of_columns(batch, model.space.fields)
            total.index_add_(0, field_of, squares.sum(0).float())
            counted.index_add_(0, field_of, there.sum(0)[:, None])
            rows += batch.size
            if rows >= most:
                break
    return total / counted.clamp(min=1)


@contextmanager
def _unmasked(model: Recommender) -> Iterator[None]:
    """No mask for a while; what lies outside of it is 0 in the table itself."""
    mask, model.table.mask = model.table.mask, None
    try:
        yield
    finally:
        model.table.mask = mask


def _squares(model: Recommender, weight: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """(B, C, K) the squared derivatives of each row's logit, and (B, C) 1 where there is a feature."""
    found: list[Tensor] = []

    def looked_up(parameter: Tensor, features: Tensor) -> Tensor:
        rows = gather(parameter.detach(), features).requires_grad_()
        if parameter is weight:
            found.append(rows)
        return rows

    logits = model(batch, looked_up).logits
    # each logit depends on what was looked up for its own row alone, so the derivative of the sum is that of each
    (slopes,) = torch.autograd.grad(logits.sum(), found, materialize_grads=True)
    there = batch.there()
    return slopes.square(), torch.ones(batch.ids.shape) if there is None else there.float()


def _field_of_columns(batch: Batch, fields: int) -> Tensor:
    """(C,) the field of each column."""
    widths = torch.ones(fields, dtype=torch.int64) if batch.offsets is None else batch.offsets.diff()
    return torch.arange(fields).repeat_interleave(widths)
