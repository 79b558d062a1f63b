"""Tables of text, for a terminal and a log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def aligned(head: Sequence[str], body: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> Iterator[str]:
    """Lines of a table of text; left: the columns that are not set to the right."""
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    for row in (head, *body):
        cells = (
            cell.ljust(width) if at in left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()
