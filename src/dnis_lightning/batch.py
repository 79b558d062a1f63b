"""The one type that travels from the loader to the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


@dataclass
class Distinct:
    """The distinct features of a batch, U of them, perhaps others besides, ascending; and where they stand.

    features (U,). places (B, C): the place among the features of each of the batch's ids. order (B·C,): the numbers of
    the ids, flattened, sorted by place; starts (U,): where those of each place start.
    """

    features: Tensor
    places: Tensor
    order: Tensor
    starts: Tensor
    _in_order: tuple[Tensor, Tensor] | None = field(default=None, init=False, repr=False, compare=False)

    @cached_property
    def rows_in_order(self) -> Tensor:
        """(B·C,) the row of the batch of each number in `order`."""
        return torch.div(self.order, self.places.shape[1], rounding_mode="floor")

    def in_order(self, each: Tensor) -> Tensor:
        """(B·C,) what `each` (B, C) of the ids has, in `order`; kept, so `each` is not to change."""
        if self._in_order is None or self._in_order[0] is not each:
            self._in_order = each, each.flatten().index_select(0, self.order)
        return self._in_order[1]


@dataclass  # not frozen: Lightning writes converted tensors into a copy of it
class Batch:
    """B rows of F fields, in C columns: one a field, but several for a field of several features.

    ids (B, C): the row of the embedding table of each column's feature, int32 or int64.
    label (B,): what is predicted, float32.
    values (B, C) or None: multiplies the embedding of each column (1 for categorical fields, the share of each feature
    of a multi-valued field and 0 where it has no more); None means all ones.
    offsets (F + 1,) or None: field f has the columns offsets[f] … offsets[f + 1] − 1, whose products are summed; None
    means one each.
    total: rows of the *global* batch, of which these B are one rank's share; None means B.
    distinct: the features that are in `ids`, each once; None = not worked out.
    user (B,) or None: the raw code of each row's user, int64, where that is asked for.
    """

    ids: Tensor
    label: Tensor
    values: Tensor | None = None
    offsets: Tensor | None = None
    total: int | None = None
    distinct: Distinct | None = None
    user: Tensor | None = None

    @property
    def size(self) -> int:
        """B, the rows in this rank's share of the batch."""
        return int(self.label.shape[0])

    @property
    def global_size(self) -> int:
        """The rows of the batch over all ranks; losses are sums divided by it."""
        return self.size if self.total is None else self.total

    @property
    def features(self) -> Tensor:
        """What is looked up for it: the distinct features (U,) where they are known, else its ids (B, C)."""
        return self.ids if self.distinct is None else self.distinct.features

    def there(self) -> Tensor | None:
        """(B, C) bool: which columns hold a feature, if not all do: a number may be 0, but in a list 0 is its end."""
        if self.offsets is None or self.values is None:
            return None
        widths = self.offsets.diff()
        return (self.values != 0) | (widths.repeat_interleave(widths, output_size=self.values.shape[1]) == 1)

    def times(self) -> Tensor | None:
        """(U,) how often each of the distinct features occurs, float32; None where they are not known."""
        if self.distinct is None:
            return None
        there = self.there()
        weights = None if there is None else there.flatten().float()
        return self.distinct.places.flatten().bincount(weights, minlength=len(self.distinct.features)).float()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from which a copy to a GPU can overlap with work."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, move: Callable[[Tensor], Tensor]) -> Batch:
        moved: dict[str, Any] = {name: move(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        if self.distinct is not None:
            own = [getattr(self.distinct, one.name) for one in fields(self.distinct) if one.init]
            moved["distinct"] = Distinct(*(move(tensor) for tensor in own))
        return replace(self, **moved)
