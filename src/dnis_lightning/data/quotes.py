"""Double quotes around values: where rows end, what stands in them, and quotes that are out of place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

_STRAY_RETURN = "a carriage return within the line; lines should end in \\n or \\r\\n"
_STRAY_QUOTE = "a quote within a value that is not doubled, or not in quotes; mend or remove this line"
_UNCLOSED = "a quote that is not closed; mend or remove this line"


def misplaced(text: bytes, separator: bytes, quoted: bool, blank: bool) -> str | None:
    """What is wrong with the line ends and quotes of some lines, or None; blank: blank lines are wrong as well.

    Quotes are right around a whole value, and doubled within it.
    """
    if not quoted or b'"' not in text:
        if b"\r" in text and text.count(b"\r") != text.count(b"\r\n"):
            return _STRAY_RETURN
        if blank and (text.startswith((b"\n", b"\r\n")) or b"\n\n" in text or b"\n\r\n" in text):
            return "a blank line"
        return None
    data = np.frombuffer(text, dtype=np.uint8)
    quotes = np.flatnonzero(data == ord('"'))
    begun, ended = quotes[::2], quotes[1::2]
    # the text ends with \n, which stands in front of its first byte here
    before, after = _is_one_of(data[begun - 1], separator + b'\n"'), _is_one_of(data[ended + 1], separator + b'\r\n"')
    if not (before.all() and after.all()):
        return _STRAY_QUOTE
    if len(quotes) % 2:
        return _UNCLOSED
    returns = np.flatnonzero(data == ord("\r"))
    returns = returns[data[returns + 1] != ord("\n")]
    if (np.searchsorted(quotes, returns) % 2 == 0).any():
        return _STRAY_RETURN
    ends = np.flatnonzero(data == ord("\n")) if blank else returns[:0]
    last, last_but_one = data[ends - 1], data[ends - 2]
    ends = ends[(last == ord("\n")) | ((last == ord("\r")) & (last_but_one == ord("\n")))]
    return "a blank line" if (np.searchsorted(quotes, ends) % 2 == 0).any() else None


def values_of(text: str, separator: str, quoted: bool) -> list[str]:
    """The values of a row whose quotes are right."""
    pieces = text.split(separator)
    if not quoted or '"' not in text:
        return pieces
    values: list[str] = []
    held: list[str] = []
    inside = False
    for piece in pieces:
        held.append(piece)
        inside ^= bool(piece.count('"') % 2)
        if not inside:
            value = separator.join(held)
            values.append(value[1:-1].replace('""', '"') if value.startswith('"') else value)
            held = []
    return values


def rows_of(lines: Sequence[bytes], separator: bytes) -> Iterator[tuple[int, int | None]]:
    """Where rows begin and end among some lines; None: a quote is open where the lines end.

    A line with a quote out of place is a row of its own, so that it takes no other lines with it.
    """
    start = 0
    while start < len(lines):
        end: int | None = start + 1
        if lines[start].count(b'"') % 2 and misplaced(lines[start], separator, True, False) == _UNCLOSED:
            end = _closed(lines, start, separator)
        yield start, end
        start = end or start + 1


def whole_rows(data: bytes, cut: int, separator: bytes) -> int:
    """The last end of a row at `cut`, an end of a line, or before; 0 for none."""
    even = _even(data, cut)
    if even and misplaced(data[:even], separator, True, False) is None:
        return even
    lines = [line + b"\n" for line in data[:cut].removesuffix(b"\n").split(b"\n")] if cut else []
    last = 0
    for start, end in rows_of(lines, separator):
        if end is None:
            break
        last += sum(map(len, lines[start:end]))
    return last


def _even(data: bytes, cut: int) -> int:
    """The last end of a line, at `cut` or before, that has an even number of quotes in front of it; 0 for none."""
    odd = data.count(b'"', 0, cut) % 2
    while cut and odd:
        before = data.rfind(b"\n", 0, cut - 1) + 1
        odd = (odd + data.count(b'"', before, cut)) % 2
        cut = before
    return cut


def _closed(lines: Sequence[bytes], start: int, separator: bytes) -> int | None:
    """The end of a row with a quote that is open at the end of its first line; None if that is not among the lines."""
    for end in range(start + 1, len(lines)):
        if lines[end].count(b'"') % 2:
            whole = b"".join(lines[start : end + 1])
            return start + 1 if misplaced(whole, separator, True, False) == _STRAY_QUOTE else end + 1
    return None


def _is_one_of(data: np.ndarray, these: bytes) -> np.ndarray:
    table = np.zeros(256, dtype=bool)
    table[list(these)] = True
    return table[data]
