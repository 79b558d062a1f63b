"""Text files as they lie there, plain or inside a zip, read in blocks of whole lines with their line numbers."""

from __future__ import annotations

import contextlib
import csv
import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from dnis_lightning.errors import DataError

BLOCK_BYTES = 8 << 20
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Block:
    """Whole lines of a file.

    text: ends with a newline. first: the number of its first line, from 1. done: the share of the file read so far.
    """

    text: bytes
    first: int
    done: float


@dataclass(frozen=True)
class TextFile:
    """A text file, or a member of a zip archive, which is read without being unpacked."""

    path: Path
    member: str | None = None

    def where(self, line: int) -> str:
        """`file:line`, for messages."""
        return f"{self.path}{f'[{self.member}]' if self.member else ''}:{line}"

    def identity(self) -> dict[str, Any]:
        """What changes when the file does. Raises DataError when it cannot be read."""
        with self._readable():
            if self.member is None:
                stat = self.path.stat()
                return {"file": self.path.name, "size": stat.st_size, "changed": stat.st_mtime_ns}
            with zipfile.ZipFile(self.path) as archive:
                info = self._info(archive)
                return {"file": self.member, "size": info.file_size, "crc": info.CRC}

    def blocks(self, size: int = BLOCK_BYTES) -> Iterator[Block]:
        """The file in blocks of about `size` bytes, cut at line ends; blank lines at the end are left out.

        Raises DataError when the file cannot be read, is empty, or has a line longer than a block.
        """
        with self._readable(), self._opened() as (file, total):
            rest, line, read = b"", 1, 0
            while data := file.read(size):
                read += len(data)
                text, rest = _cut(rest + data)
                if len(rest) > size:
                    raise DataError(f"{self.where(line)}: a line of more than {size} bytes; is this a text file?")
                if text:
                    yield Block(text, line, read / max(total, read))
                    line += text.count(b"\n")
            if rest.strip():
                yield Block(rest.rstrip(b"\r\n") + b"\n", line, 1.0)
            if not read:
                raise DataError(f"{self.where(1)}: the file is empty; get it again")

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[IO[bytes], int]]:
        if self.member is None:
            with self.path.open("rb") as file:
                yield file, self.path.stat().st_size
            return
        with zipfile.ZipFile(self.path) as archive:
            info = self._info(archive)
            if info.flag_bits & 1:
                raise DataError(f"{self.path}: the archive has a password; unpack it beside itself")
            with archive.open(info) as file:
                yield file, info.file_size

    def _info(self, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
        try:
            return archive.getinfo(str(self.member))
        except KeyError:
            there = _some(archive.namelist())
            raise DataError(
                f"{self.path}: no {self.member} in this archive, which has {there}; is it the right one?"
            ) from None

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as fault:
            reason = str(fault).rstrip(".") or "it ends too early"
            raise DataError(
                f"{self.path}: not a whole zip archive ({reason}); delete it, so that it is got again"
            ) from fault
        except (FileNotFoundError, IsADirectoryError, PermissionError) as fault:
            if Path(fault.filename or "") != self.path:
                raise
            raise DataError(f"{self.path}: cannot be read ({fault.strerror}); is the path right?") from fault


def separators_per_line(text: bytes, separator: bytes) -> np.ndarray:
    """(lines,) how often a one-byte separator occurs in each line of a block."""
    data = np.frombuffer(text, dtype=np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    places = np.flatnonzero(data == ord(separator))
    return np.diff(np.searchsorted(places, ends), prepend=0)


def check_columns(file: TextFile, block: Block, separator: bytes, columns: int, expected: str) -> None:
    """Raises DataError that names the first line with another number of columns, or with a stray carriage return."""
    stray = re.search(rb"\r(?!\n)", block.text)
    if stray:
        line = block.first + block.text.count(b"\n", 0, stray.start())
        raise DataError(f"{file.where(line)}: a carriage return within the line; lines should end in \\n or \\r\\n")
    found = separators_per_line(block.text, separator) + 1
    wrong = np.flatnonzero(found != columns)
    if len(wrong):
        line = int(wrong[0])
        raise DataError(
            f"{file.where(block.first + line)}: {found[line]} column{'s' * bool(found[line] != 1)}, {expected}; "
            "is the file whole and separated as it should be?"
        )


def read_table(block: Block, separator: bytes, types: Mapping[str, Any], missing: Sequence[str] = ()) -> pd.DataFrame:
    """The columns of a block by name and type, as they stand: no quotes, no comments; "" is NaN in those of `missing`.

    Raises ValueError or OverflowError where something does not fit its type.
    """
    return pd.read_csv(
        io.BytesIO(block.text),
        sep=separator.decode(),
        names=list(types),
        header=None,
        dtype=dict(types),
        engine="c",
        quoting=csv.QUOTE_NONE,
        keep_default_na=False,
        na_values={name: [""] for name in missing},
        skip_blank_lines=False,
        index_col=False,
        encoding_errors="backslashreplace",
    )


def numbered_lines(block: Block) -> Iterator[tuple[int, str]]:
    """The lines of a block with their numbers in the file."""
    for index, line in enumerate(block.text.rstrip(b"\r\n").split(b"\n")):
        yield block.first + index, line.decode(errors="backslashreplace").rstrip("\r")


def is_number(text: str) -> bool:
    """Whether a text is a number that is finite in single precision."""
    try:
        return abs(float(text)) <= _LARGEST
    except ValueError:
        return False


def _cut(data: bytes) -> tuple[bytes, bytes]:
    """Whole lines, and what is left; blank lines at the end stay with what is left."""
    end = len(data.rstrip(b"\r\n"))
    if not end:
        return b"", data
    newline = data.find(b"\n", end)
    cut = (newline if newline >= 0 else data.rfind(b"\n")) + 1
    return data[:cut], data[cut:]


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "") if names else "nothing"
