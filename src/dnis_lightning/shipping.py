"""What a run leaves to be shipped: tables in the smallest form that predicts as well."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from dnis_lightning.errors import RunError
from dnis_lightning.measures import worse_by
from dnis_lightning.packed import PackedEmbedding, PackedTable
from dnis_lightning.packed.layouts import LayoutName
from dnis_lightning.packed.values import STORED, DTypeName
from dnis_lightning.paths import leftovers, whole_folder
from dnis_lightning.quantities import CutBy
from dnis_lightning.scheme import Scheme

if TYPE_CHECKING:
    from torch import Tensor

Format = Literal["packed", "dense", "structured", "onnx"]
Metrics = Mapping[str, Any]
WIDTHS: tuple[DTypeName, ...] = ("int8", "fp16", "fp32")
"""A type of each width, narrowest first."""
TOLERANCE = 0.001
"""How much worse a smaller type may be, as a share of the metric that decides, where nobody says otherwise."""


@dataclass(frozen=True)
class Wanted:
    """What to export: a cut by its budget, or `unpruned`; None for the only one there is.

    format: `packed`; `onnx`, see `onnx_file`; or the table as plain arrays of fp32, `dense` or `structured`, see
    `plain_files`. layout, dtype, tolerance: of the first, and all but the layout of the second, see `Shipping`. by: cut
    the whole table anew, see `Pruning`; None for the run's own cut to this budget, or, where it has none, for one
    that is made as the run makes them, by first dimensions where it tries two ways.
    """

    format: Format = "packed"
    budget: str | None = None
    by: CutBy | None = None
    layout: LayoutName | None = None
    dtype: DTypeName | None = None
    tolerance: float = TOLERANCE


@dataclass(frozen=True)
class Shipping:
    """How the schemes of a run are packed.

    block_of (N,): the block of each feature. layout: None for the smallest. dtype: None for the smallest whose metrics
    are worse than those of fp32 by no more than `tolerance`, a share of the one that decides.
    """

    block_of: np.ndarray
    layout: LayoutName | None = None
    dtype: DTypeName | None = "fp32"
    tolerance: float = TOLERANCE

    def choose(
        self,
        scheme: Scheme,
        metrics: dict[str, Any],
        evaluate: Callable[[Scheme], dict[str, Any]],
        score: Callable[[Metrics], float],
    ) -> tuple[PackedTable, dict[str, Any]]:
        """The packed table, and the metrics of what is shipped.

        metrics: of the scheme as it is. evaluate: gives those of one with other values. score: of metrics, smaller is
        better. Raises RunError where values are too large for the type.
        """
        if self.dtype == "fp32":
            return self.packed(scheme, "fp32"), metrics
        if self.dtype is not None:
            packed = self.packed(scheme, self.dtype)
            return packed, evaluate(as_shipped(scheme, packed))
        exact = self.packed(scheme, "fp32")
        most = worse_by(score(metrics), self.tolerance)
        for packed in sorted(self._others(scheme), key=lambda one: one.bytes):
            if packed.bytes < exact.bytes and score(found := evaluate(as_shipped(scheme, packed))) <= most:
                return packed, found
        return exact, metrics

    def packed(self, scheme: Scheme, dtype: DTypeName) -> PackedTable:
        """A scheme in a type. Raises RunError where a value is too large for it."""
        try:
            return scheme.packed(self.block_of, dtype, self.layout)
        except OverflowError as fault:
            way_on = "take fp32, by ship.dtype or the --dtype of export"
            raise RunError(f"the table does not go into {dtype}: {fault}; {way_on}") from fault

    @property
    def widths(self) -> tuple[DTypeName, ...]:
        """The types that a table may be sized in, to fill a number of bytes; narrowest first."""
        return WIDTHS if self.dtype is None else (self.dtype,)

    def bytes_of(self, mask: np.ndarray, projections: Mapping[int, np.ndarray], dtype: DTypeName) -> int:
        """The size of the file of a table that keeps these entries, (N, K) bool, in a type."""
        scheme = Scheme.from_dense(np.zeros(mask.shape, dtype=np.float32), mask, dict(projections))
        return scheme.packed(self.block_of, dtype, self.layout).bytes

    def fits(
        self, size: float, projections: Callable[[Tensor], Mapping[int, np.ndarray]], dtype: DTypeName
    ) -> Callable[[Tensor], bool]:
        """Whether a table that keeps certain entries, (N, K) bool, takes no more than so many bytes in a type.

        projections: gives those of such a table.
        """
        return lambda mask: self.bytes_of(mask.cpu().numpy(), projections(mask), dtype) <= size

    def _others(self, scheme: Scheme) -> Iterator[PackedTable]:
        for dtype in STORED:
            try:
                if dtype != "fp32":
                    yield scheme.packed(self.block_of, dtype, self.layout)
            except OverflowError:
                continue


Sized = TypeVar("Sized")


def worth_trying(sized: Sequence[Sized], entries: Callable[[Sized], int]) -> list[Sized]:
    """Of tables that fill the same bytes in wider and wider types those that hold more than all of the wider ones."""
    chosen: list[Sized] = []
    for one in reversed(sized):
        if not chosen or entries(one) > entries(chosen[0]):
            chosen.insert(0, one)
    return chosen


def as_shipped(scheme: Scheme, packed: PackedTable) -> Scheme:
    """A scheme with the values that its packed table has."""
    if packed.values.dtype == "fp32":
        return scheme
    return replace(scheme, values=packed.unprojected()[scheme.mask()])


def write_embedding(folder: Path, embedding: PackedEmbedding, more: Mapping[str, Any]) -> None:
    """Write a folder, whole or not at all, in place of what was there; more: what else its manifest says."""
    for stale in leftovers(folder):
        shutil.rmtree(stale, ignore_errors=True)
    if folder.exists():
        shutil.rmtree(folder)
    with whole_folder(folder, anew=True) as part:
        embedding.save(part, more)
