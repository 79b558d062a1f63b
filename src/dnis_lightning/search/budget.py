"""How much of a table may be kept, as a user says it: `cr:20`, `10%`, `25MiB`, `bytes:10%`, `loss:0.5%`, `eps:0.01`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from dnis_lightning.errors import ConfigError

_FORM = re.compile(
    r"(?P<cr>cr:(?P<rate>[0-9.]+(e[+-]?[0-9]+)?))|(?P<share>[0-9.]+)%|(?P<size>[0-9.]+)\s*(?P<unit>[KMG]iB)"
    r"|bytes:(?P<bytes>[0-9.]+)%|loss:(?P<loss>[0-9.]+)%|eps:(?P<eps>[0-9.]+(e[+-]?[0-9]+)?)"
)
_LONGEST = 40  # a budget names files
_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True)
class Budget:
    """A named bound on the kept entries.

    rate: whole / kept. entries: so many. epsilon: the threshold ε that what is kept reaches. size: bytes of the
    table's file, indices included; bytes_share: the same as a share of what the values of the plain table take in fp32,
    4·N·K bytes. loss: how much worse than the uncut model's the metric that decides may be on select, as a share of it;
    what is wanted is the smallest table. One of them is given.
    """

    name: str
    rate: float | None = None
    entries: int | None = None
    epsilon: float | None = None
    size: float | None = None
    bytes_share: float | None = None
    loss: float | None = None

    def __post_init__(self) -> None:
        bounds = (self.rate, self.entries, self.epsilon, self.size, self.bytes_share, self.loss)
        assert sum(bound is not None for bound in bounds) == 1, "one bound is given"

    @property
    def most_bytes(self) -> float:
        """How many the table's file may have, once `of_table`; infinite where that is not what is bounded."""
        return math.inf if self.size is None else self.size

    def of_table(self, whole: int) -> Budget:
        """The same in bytes, where it is a share of those of the plain table, which has `whole` entries, N·K."""
        return self if self.bytes_share is None else Budget(self.name, size=self.bytes_share * 4 * whole)


def compression_rate(rate: float) -> Budget:
    """The budget that keeps 1/rate of the entries.

    Raises ConfigError for a rate below 1.
    """
    if rate < 1:
        raise ConfigError(f"search.rates: a compression rate of {rate:g}; it should be 1 or more")
    digits = f"{rate:.12g}"
    return Budget(f"cr:{digits}", rate=float(digits))  # rates of one name are equal


def at_threshold(epsilon: float) -> Budget:
    """The budget that keeps what is ε or more."""
    digits = f"{epsilon:.12g}"
    return Budget(f"eps:{digits}", epsilon=float(digits))  # those of one name are equal


def parse_budget(text: str) -> Budget:
    """Read `cr:20` (compression rate), `10%` (share of the entries), `25MiB`, `bytes:10%` (of the file) or `loss:0.5%`.

    And `eps:0.01`, as thresholds are called where they are listed.
    Raises ConfigError for anything else.
    """
    match = _FORM.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    try:
        if match and match["cr"] and float(match["rate"]) >= 1:
            return compression_rate(float(match["rate"]))
        if match and match["share"] and 0 < float(match["share"]) <= 100:
            return Budget(text.strip(), rate=100 / float(match["share"]))
        if match and match["size"] and float(match["size"]) > 0:
            return Budget(text.strip(), size=float(match["size"]) * _UNITS[match["unit"]])
        if match and match["bytes"] and 0 < float(match["bytes"]) <= 100:
            return Budget(text.strip(), bytes_share=float(match["bytes"]) / 100)
        if match and match["loss"] and float(match["loss"]) >= 0:
            return Budget(text.strip(), loss=float(match["loss"]) / 100)
        if match and match["eps"] and math.isfinite(float(match["eps"])):
            return at_threshold(float(match["eps"]))
    except ValueError:
        pass
    raise ConfigError(
        f"search.budget: {_shortened(text)!r}; it should read like cr:20, 10%, 25MiB, bytes:10% or loss:0.5%"
    )


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
