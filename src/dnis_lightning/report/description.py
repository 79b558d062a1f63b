"""What is said of a data set before anything is trained on it: as text, and as numbers for other programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from textwrap import fill
from typing import Any

import numpy as np

from dnis_lightning.blocks import Blocks
from dnis_lightning.columns import aligned
from dnis_lightning.data.statistics import FieldFacts, Skew, features_of

SCHEMA = 1
_NONE, _WIDTH, _PAGE, _MOST_BLOCKS = "–", 30, 120, 40
_BYTES = 4
_COUNTS = (
    "Features, as in the paper's Table 1: the distinct ids in all rows, a missing value being one of them where it "
    "occurs, and 1 for each numeric field."
)
_SKEW = (
    "Distinct and missing are of all rows, the rest of train. oov: the share of occurrences without a row of their own "
    "in the table. Top one, 1 %, 10 %: the shares of occurrences that the most frequent of the features seen in train "
    "have. Once: how many features occur once."
)


@dataclass(frozen=True)
class BlockFacts:
    """A block of features: how many, how often the rarest and the most frequent occur in train, its share of all."""

    features: int
    least: int
    most: int
    share: float


@dataclass(frozen=True)
class Description:
    """A data set as it was encoded and split.

    skipped: how many bad rows were left out; example: what was wrong with the first.
    rows: of train, search, select and test. table_rows: N. base_dim: K. least: the least count of a feature, as it was
    set, and by_field where it is another. no_blocks: why there are no blocks.
    """

    data: str
    instances: int
    skipped: int
    example: str
    rows: Mapping[str, int]
    fields: Sequence[FieldFacts]
    table_rows: int
    base_dim: int
    least: int
    by_field: Mapping[str, int]
    blocking: str
    blocks: Sequence[BlockFacts]
    no_blocks: str = ""

    @property
    def features(self) -> int:
        """As the paper counts them."""
        return sum(map(features_of, self.fields))

    @property
    def table_mib(self) -> float:
        """The size of a table of N rows and K columns in float32."""
        return self.table_rows * self.base_dim * _BYTES / 2**20


def block_facts(blocks: Blocks, frequency: np.ndarray) -> list[BlockFacts]:
    """The facts of each block, the most frequent first; frequency (N,): occurrences of each feature in train."""
    total = max(float(blocks.occurrences.sum()), 1.0)
    least = np.full(blocks.count, np.iinfo(np.int64).max)
    most = np.zeros(blocks.count, dtype=np.int64)
    np.minimum.at(least, blocks.block_of, frequency)
    np.maximum.at(most, blocks.block_of, frequency)
    return [
        BlockFacts(int(size), int(low) if size else 0, int(high), float(occurrences) / total)
        for size, low, high, occurrences in zip(blocks.sizes, least, most, blocks.occurrences, strict=True)
    ]


def as_json(told: Description) -> dict[str, Any]:
    """All the numbers, by keys that stay."""
    return {
        "schema": SCHEMA,
        "data": told.data,
        "instances": told.instances,
        "skipped_rows": told.skipped,
        "rows": dict(told.rows),
        "fields": len(told.fields),
        "features": told.features,
        "table": {"rows": told.table_rows, "base_dim": told.base_dim, "mib": told.table_mib},
        "min_count": told.least,
        "min_counts": dict(told.by_field),
        "columns": [_column(facts) for facts in told.fields],
        "blocking": told.blocking,
        "blocks": [asdict(block) for block in told.blocks],
        "no_blocks": told.no_blocks or None,
    }


def _column(facts: FieldFacts) -> dict[str, Any]:
    skew = facts.skew
    return {
        "name": facts.name,
        "kind": facts.kind,
        "distinct": facts.distinct,
        "missing": facts.missing,
        "features": features_of(facts),
        "table_rows": facts.table_rows,
        "out_of_vocabulary": facts.out_of_vocabulary,
        "train": None if skew is None else _skew(skew),
        "remark": facts.remark or None,
    }


def _skew(skew: Skew) -> dict[str, Any]:
    return {
        "features": skew.features,
        "most_frequent": skew.most_frequent,
        "share_of_most_frequent": skew.most,
        "share_of_top_1_percent": skew.top_1,
        "share_of_top_10_percent": skew.top_10,
        "seen_once": skew.once,
        "frequency_by_rank": {"rank": skew.ranks.tolist(), "frequency": skew.frequency.tolist()},
    }


def as_text(told: Description) -> str:
    """What is printed."""
    return "\n".join([*_fields(told), "", *_table_1(told), "", *_blocks(told)])


def _fields(told: Description) -> Iterator[str]:
    head = ("field", "kind", "distinct", "missing", "table rows", "oov", "top one", "top 1 %", "top 10 %", "once")
    remarks = any(facts.remark for facts in told.fields)
    body = [_line(facts)[: None if remarks else len(head)] for facts in told.fields]
    yield from aligned((*head, "remark") if remarks else head, body, left=(0, 1, 10))
    yield _filled(_SKEW)
    if told.skipped:
        rows = "1 row" if told.skipped == 1 else f"{told.skipped:,} rows"
        yield f"Skipped: {rows} that could not be read (data.bad_rows=skip); the first: {told.example}."


def _line(facts: FieldFacts) -> tuple[str, ...]:
    skew = facts.skew
    shares: tuple[str, ...] = (_NONE,) * 4
    if skew is not None:
        shares = (*map(_percent, (skew.most, skew.top_1, skew.top_10)), f"{skew.once:,}")
    return (
        _short(facts.name),
        facts.kind,
        _NONE if facts.distinct is None else f"{facts.distinct:,}",
        _percent(facts.missing),
        f"{facts.table_rows:,}",
        _NONE if facts.out_of_vocabulary is None else _percent(facts.out_of_vocabulary),
        *shares,
        facts.remark,
    )


def _table_1(told: Description) -> Iterator[str]:
    size = f"{told.table_mib:,.1f} MiB"
    head = (
        "data",
        "instances",
        "fields",
        "features",
        "rows of the embedding table (N)",
        f"its size at K = {told.base_dim}",
    )
    counts = (told.instances, len(told.fields), told.features, told.table_rows)
    yield from aligned(head, [(told.data, *(f"{count:,}" for count in counts), size)])
    yield _filled(_COUNTS)
    yield _filled(f"N: {_how_rows_are_counted(told)}.")
    yield "Rows: " + ", ".join(f"{part} {count:,}" for part, count in told.rows.items()) + "."


def _how_rows_are_counted(told: Description) -> str:
    times = "once" if told.least == 1 else f"{told.least:,} times"
    others = "".join(f", {field} {least:,}" for field, least in told.by_field.items())
    numbers = {facts.kind == "numeric" for facts in told.fields}
    ids = f"for each field the features that train has at least {times}{others}, and one row for all others"
    values = "for each number a row for its value, or for each of its bins, and one for missing"
    return "; ".join([ids] * (False in numbers) + [values] * (True in numbers))


def _blocks(told: Description) -> Iterator[str]:
    if told.no_blocks:
        yield f"No blocks: {told.no_blocks}"
        return
    body = [
        (str(number), f"{block.features:,}", _range(block), _percent(block.share))
        for number, block in enumerate(told.blocks[:_MOST_BLOCKS], 1)
    ]
    yield from aligned(("block", "features", "frequency in train", "share of occurrences"), body)
    if (more := len(told.blocks) - _MOST_BLOCKS) > 0:
        yield f"… and {more:,} more, in describe.json"
    yield f"Blocks by search.blocks={len(told.blocks)} and search.blocking={told.blocking}."


def _range(block: BlockFacts) -> str:
    if not block.features:
        return _NONE
    return f"{block.least:,}" if block.least == block.most else f"{block.least:,}–{block.most:,}"


def _filled(sentence: str) -> str:
    return fill(sentence, _PAGE)


def _percent(share: float) -> str:
    """With digits enough to tell small shares from none."""
    if share == 0:
        return "0%"
    if share >= 0.0995:
        return f"{share:.1%}"
    return "<0.01%" if share < 0.00005 else f"{share:.2%}"


def _short(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"
