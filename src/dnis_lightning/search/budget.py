"""How much of a table may be kept, as a user says it: `cr:20`, `10%`, `25MiB`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dnis_lightning.errors import ConfigError

COO_BYTES = 12
"""Bytes of one kept entry in the layout that the paper counts: a float and two 32-bit indices."""

_FORM = re.compile(r"(?P<cr>cr:(?P<rate>[0-9.]+))|(?P<share>[0-9.]+)%|(?P<size>[0-9.]+)\s*(?P<unit>[KMG]iB)")
_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True)
class Budget:
    """A named bound on the kept entries: `rate` by compression rate, or `size` in bytes as COO in fp32."""

    name: str
    rate: float | None = None
    size: float | None = None

    def entries(self, whole: int) -> int:
        """How many of the `whole` = N·K entries may stay."""
        if self.rate is not None:
            return round(whole / self.rate)
        return min(whole, int((self.size or 0) // COO_BYTES))


def compression_rate(rate: float) -> Budget:
    """The budget that keeps 1/rate of the entries.

    Raises ConfigError for a rate below 1.
    """
    if rate < 1:
        raise ConfigError(f"search.rates: a compression rate of {rate:g}; it should be 1 or more")
    return Budget(f"cr:{rate:.12g}", rate=rate)


def parse_budget(text: str) -> Budget:
    """Read `cr:20` (compression rate), `10%` (share of the entries) or `25MiB` (bytes, indices included).

    Raises ConfigError for anything else.
    """
    match = _FORM.fullmatch(text.strip())
    try:
        if match and match["cr"] and float(match["rate"]) >= 1:
            return compression_rate(float(match["rate"]))
        if match and match["share"] and 0 < float(match["share"]) <= 100:
            return Budget(text.strip(), rate=100 / float(match["share"]))
        if match and match["size"] and float(match["size"]) > 0:
            return Budget(text.strip(), size=float(match["size"]) * _UNITS[match["unit"]])
    except ValueError:
        pass
    raise ConfigError(f"search.budget: {text!r}; it should read like cr:20, 10% or 25MiB")
