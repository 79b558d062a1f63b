"""Reading delimited text in chunks, with errors that name the file and the line."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from dnis_lightning.errors import DataError

BLOCK = 16 * 2**20
"""Bytes of text that are parsed at a time."""


@dataclass(frozen=True)
class TextTable:
    """A delimited file without quoting: what to read of it and how.

    path: a file, or a zip archive of which `member` is read. what: its name in messages, e.g. "MovieLens ratings".
    """

    path: Path
    separator: str
    columns: int
    what: str
    member: str | None = None
    header: bool = False

    def frames(self) -> Iterator[tuple[int, pd.DataFrame]]:
        """Pieces of the file as text columns 0, 1, …, each with the number of its first line (counted from 1).

        Raises DataError for a file that is absent or damaged, and for a line with another number of columns.
        """
        line = 1
        with (
            self._open() as (file, size),
            tqdm(total=size, unit="B", unit_scale=True, desc=self.path.name, leave=False) as bar,
        ):
            for block in _whole_lines(file):
                lines = block.count(b"\n") + (not block.endswith(b"\n"))
                if self.header and line == 1:
                    block = block.partition(b"\n")[2]
                    line, lines = 2, lines - 1
                if block.strip():
                    yield line, self._parse(block, line)
                line += lines
                bar.update(len(block))

    def fault(self, line: int, found: str, wanted: str, next_step: str) -> DataError:
        """The error of one line."""
        return DataError(f"{self._place()}:{line}: {found}, {wanted}; {next_step}")

    def numbers(self, column: pd.Series, first_line: int, name: str, missing: bool = False) -> np.ndarray:
        """A text column as float32; empty text is NaN if `missing` is allowed.

        Raises DataError at the first text that is no finite number.
        """
        values = pd.to_numeric(column, errors="coerce").to_numpy(np.float32)
        wrong = ~np.isfinite(values) & ~((column == "").to_numpy() if missing else np.zeros(len(values), bool))
        if wrong.any():
            at = int(np.argmax(wrong))
            raise self.fault(
                first_line + at, f"{name} is {column.iloc[at]!r}", "it should be a number", "correct the line"
            )
        return values

    def _parse(self, block: bytes, first_line: int) -> pd.DataFrame:
        separator = self.separator.encode()
        if len(separator) > 1:  # the fast parsers split on one byte
            block = block.replace(b"\x1f", b" ").replace(separator, b"\x1f")
            separator = b"\x1f"
        self._check_columns(block, separator, first_line)
        return pd.read_csv(
            io.BytesIO(block),
            sep=separator.decode(),
            header=None,
            names=range(self.columns),
            dtype=str,
            keep_default_na=False,
            quoting=3,
            skip_blank_lines=False,
            encoding="utf-8",
            encoding_errors="replace",
        )

    def _check_columns(self, block: bytes, separator: bytes, first_line: int) -> None:
        data = np.frombuffer(block, dtype=np.uint8)
        ends = np.flatnonzero(data == ord("\n"))
        if not block.endswith(b"\n"):
            ends = np.append(ends, len(data))
        marks = np.searchsorted(np.flatnonzero(data == separator[0]), ends)
        columns = np.diff(marks, prepend=0) + 1
        wrong = columns != self.columns
        if wrong.any():
            at = int(np.argmax(wrong))
            found = f"{columns[at]} column{'s' if columns[at] != 1 else ''}"
            wanted = f"{self.what} have {self.columns} separated by {self.separator!r}"
            raise self.fault(first_line + at, found, wanted, "is this the right file, and whole?")

    def _place(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}!{self.member}"

    @contextmanager
    def _open(self) -> Iterator[tuple[IO[bytes], int]]:
        try:
            if self.member is None:
                with self.path.open("rb") as file:
                    yield file, self.path.stat().st_size
            else:
                with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
                    yield file, archive.getinfo(self.member).file_size
        except (zipfile.BadZipFile, EOFError, zipfile.zlib.error) as fault:  # type: ignore[attr-defined]
            raise DataError(
                f"{self.path}: the archive is damaged or cut short ({fault}); remove it and get it again"
            ) from fault
        except KeyError as fault:
            raise DataError(f"{self.path}: the archive holds no {self.member}; is it the right one?") from fault
        except FileNotFoundError as fault:
            raise DataError(f"{self.path}: there is no such file; check the path") from fault


def identity_of(path: Path, member: str | None) -> dict[str, Any]:
    """What tells one version of a file from another: size and checksum inside an archive, else size and time."""
    try:
        if member is None:
            status = path.stat()
            return {"file": path.name, "size": status.st_size, "modified": status.st_mtime_ns}
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(member)
            return {"file": path.name, "member": member, "size": info.file_size, "crc": info.CRC}
    except (zipfile.BadZipFile, EOFError) as fault:
        raise DataError(f"{path}: the archive is damaged or cut short ({fault}); remove it and get it again") from fault
    except KeyError as fault:
        raise DataError(f"{path}: the archive holds no {member}; is it the right one?") from fault
    except FileNotFoundError as fault:
        raise DataError(f"{path}: there is no such file; check the path") from fault


def _whole_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Blocks of whole lines; carriage returns are dropped."""
    rest = b""
    while block := file.read(BLOCK):
        block = rest + block
        cut = block.rfind(b"\n") + 1
        rest = block[cut:]
        if cut:
            yield block[:cut].replace(b"\r", b"")
    if rest:
        yield rest.replace(b"\r", b"")
