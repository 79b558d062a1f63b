"""What `result.json` says of a table, whole or cut."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from dnis_lightning.packed.layouts import LayoutName
from dnis_lightning.packed.values import DTypeName

Metrics = dict[str, float]
"""By names with their split, as `select/mse`."""


class Size(TypedDict):
    """How large a table is; see `Scheme`. compression_rate: None where nothing is kept. bytes: of the packed file."""

    kept: int
    compression_rate: float | None
    bytes: int
    layout: LayoutName
    dtype: DTypeName
    projections: int
    coo_bytes: int
    coo_npz_bytes: int


class TableFacts(Size):
    """And how well it predicts, as it is shipped: on select, and once all is decided, on test.

    first_order, interaction: entries of the model beside its table; of the whole table. calibration: of clicks.
    """

    metrics: Metrics
    first_order: NotRequired[int]
    interaction: NotRequired[int]
    calibration: NotRequired[dict[str, Any]]


class CutFacts(TableFacts):
    """And how a table was cut.

    by: the way, see `Pruning`. cut_from: `trained`, or `warm_start` for what it was before the search.
    metrics_before_finetune: on select. within_loss: whether a budget in loss was kept to. seconds: of all that the cut
    took. differences: to the whole table, on test, by metric.
    """

    by: str
    cut_from: str
    metrics_before_finetune: Metrics
    budget: NotRequired[str]
    within_loss: NotRequired[bool]
    seconds: NotRequired[float]
    differences: NotRequired[dict[str, dict[str, float | None]]]
