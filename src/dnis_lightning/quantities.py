"""Names for the ranges that arguments may take; pydantic reads them when a configuration is checked."""

from typing import Annotated

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
"""A whole number of things, at least one."""

Whole = Annotated[int, Field(ge=0)]
"""A whole number of things, perhaps none."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A finite number above zero."""

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A finite number, zero or above."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A part of a whole, 0 to 1."""

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""A seed of a random number generator."""
