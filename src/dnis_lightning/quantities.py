"""Names for the ranges that arguments may take; pydantic reads them when a configuration is checked."""

from typing import Annotated, Literal

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
"""A whole number of things, at least one."""

Counts = Annotated[list[Count], Field(min_length=1)]
"""Some such numbers, at least one of them."""

Whole = Annotated[int, Field(ge=0)]
"""A whole number of things, perhaps none."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
"""Any number but infinities and NaN."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A finite number above zero."""

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A finite number, zero or above."""

Rate = Annotated[float, Field(ge=0, lt=1)]
"""A share that is never the whole: of units to drop."""

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""A seed of a random number generator."""

TaskName = Literal["rating", "ctr", "topk"]
"""What is predicted."""

TopkLoss = Literal["bce", "bpr"]
"""What items that a user had are set against: nothing, by row, or negatives, by pair."""

SplitName = Literal["three_way", "paper", "authors", "time", "leave_one_out", "column"]
"""How rows are shared out between train, search, select and test."""

CutBy = Literal["elements", "gates", "prefix"]
"""How it is chosen which entries of a table go; see `search.prune.Pruning`."""

STARTS_AFRESH = {"learned": "pep", "nis_single": "nis_se", "nis_multi": "nis_me"}
"""Schedules of cuts that need nothing of the unpruned model, and the search that is made for each."""

NumericForm = Literal["scalar", "raw", "standard", "log2", "quantile"]
"""What becomes of numbers; see `data.numbers`."""
