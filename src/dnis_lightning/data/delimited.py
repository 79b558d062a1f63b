"""Rows of delimited text: blocks of lines as Arrow tables, and the first bad line named or all of them left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa

from dnis_lightning.data.layout import Format
from dnis_lightning.data.parallel import ordered_map
from dnis_lightning.data.quotes import rows_of
from dnis_lightning.data.text import Block, TextFile
from dnis_lightning.errors import DataError, NoRows

BadRows = Literal["error", "skip"]
_FEW = 256
"""So many rows are looked at one by one for the bad ones among them."""
_HOPELESS = 10_000
"""After so many bad lines without a good one, the rest of the file is not read."""


@dataclass(frozen=True)
class Rows:
    """Some consecutive rows of a file.

    table: a column for each that is not `unread`. done: the share of the file read so far. skipped: how many bad lines
    of this block were left out. example: what was wrong with the first of them.
    """

    table: pa.Table
    done: float
    skipped: int = 0
    example: str = ""


def read_rows(file: TextFile, layout: Format, bad_rows: BadRows = "error") -> Iterator[Rows]:
    """The rows of a file, parsed on several cores, in order.

    Raises DataError, naming file and line, on the first line that is not as the layout says, unless bad_rows = `skip`;
    on another header; on a file in which every line is bad.
    """
    good, bad, example = 0, 0, ""
    blocks = _without_header(file, layout, file.blocks(quoted=layout.separator if layout.quoted else None))
    for rows in ordered_map(lambda block: _rows(file, layout, block, bad_rows), blocks):
        good, bad, example = good + rows.table.num_rows, bad + rows.skipped, example or rows.example
        if not good and bad >= _HOPELESS:
            raise DataError(f"{file.path}: the first {bad} lines are all bad ({example}); is this the right file?")
        yield rows
    if not good and bad:
        raise DataError(f"{file.path}: every line is bad ({example}); is this the right file?")
    if not good:
        raise NoRows(f"{file.path}: no rows after the header; is the file whole?")


def sample_rows(file: TextFile, layout: Format, size: int) -> pa.Table:
    """The rows of the first block of about `size` bytes, bad ones left out.

    Raises DataError, naming the first bad line, when none is good, and as `read_rows` does on a file that is no text.
    """
    blocks = file.blocks(size, layout.separator if layout.quoted else None)
    for block in _without_header(file, layout, blocks):
        rows = _rows(file, layout, block, "skip")
        if rows.skipped and not rows.table.num_rows:
            raise DataError(rows.example)
        return rows.table
    return layout.parse(b"")


def _rows(file: TextFile, layout: Format, block: Block, bad_rows: BadRows) -> Rows:
    table = layout.parse(block.text)
    if table is not None:
        return Rows(table, block.done)
    rows = list(_numbered_rows(block, layout))
    bad: set[int] = set()
    example = ""
    for place, fault in _bad_rows(layout, rows):
        fault = f"{file.where(rows[place][0])}: {fault}"
        if bad_rows == "error":
            raise DataError(fault)
        bad.add(place)
        example = example or fault
    table = layout.parse(b"".join(row for place, (_, row) in enumerate(rows) if place not in bad))
    if table is None or not bad:
        raise DataError(f"{file.where(block.first)}: some of these lines cannot be read; is the file whole?")
    return Rows(table, block.done, len(bad), example)


def _bad_rows(layout: Format, rows: Sequence[tuple[int, bytes]], start: int = 0) -> Iterator[tuple[int, str]]:
    """The places of the bad rows among some with a bad one, from `start` on, and what is wrong with each."""
    if len(rows) > _FEW:
        half = len(rows) // 2
        for place, part in ((start, rows[:half]), (start + half, rows[half:])):
            if layout.parse(b"".join(row for _, row in part)) is None:
                yield from _bad_rows(layout, part, place)
        return
    faults = [layout.fault(row, number == 1) for number, row in rows]
    if layout.parse(b"".join(row for (_, row), fault in zip(rows, faults, strict=True) if fault is None)) is None:
        for place, (_, row) in enumerate(rows):
            if faults[place] is None and layout.parse(row) is None:
                faults[place] = "it cannot be read; mend or remove this line"
    yield from ((start + place, fault) for place, fault in enumerate(faults) if fault is not None)


def _numbered_rows(block: Block, layout: Format) -> Iterator[tuple[int, bytes]]:
    """The rows of a block with the numbers of their first lines in the file."""
    lines = [line + b"\n" for line in block.text.removesuffix(b"\n").split(b"\n")]
    if not layout.quoted:
        yield from enumerate(lines, block.first)
        return
    for start, end in rows_of(lines, layout.separator):
        yield block.first + start, b"".join(lines[start : end or start + 1])


def _without_header(file: TextFile, layout: Format, blocks: Iterable[Block]) -> Iterator[Block]:
    for block in blocks:
        if layout.header is not None and block.first == 1:
            first, _, rest = block.text.partition(b"\n")
            if first.strip() != layout.header:
                raise DataError(
                    f"{file.where(1)}: it begins {first[:60].decode(errors='backslashreplace')!r}, expected the header "
                    f"{layout.header.decode()}; is this the right file?"
                )
            block = replace(block, text=rest, first=2)
        if block.text:
            yield block
