"""MovieLens ratings in GroupLens' own layouts, from a folder, from GroupLens' zip as it is, or downloaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from dnis_lightning.data.download import fetch
from dnis_lightning.data.source import Chunk, Field
from dnis_lightning.data.text import Block, TextFile, check_columns, is_number, numbered_lines, read_table
from dnis_lightning.errors import DataError
from dnis_lightning.paths import expand
from dnis_lightning.quantities import Count, TaskName

Version = Literal["100k", "1m", "20m", "25m", "32m", "latest", "latest-small"]
READER = 1


@dataclass(frozen=True)
class Layout:
    """The ratings file of some versions: its name, what stands between columns, the first line if it is a header."""

    file: str
    separator: bytes
    header: bytes | None = None


_CSV = Layout("ratings.csv", b",", b"userId,movieId,rating,timestamp")
_LAYOUTS = {"100k": Layout("u.data", b"\t"), "1m": Layout("ratings.dat", b"::")}
_COLUMNS = ("user", "item", "rating", "timestamp")


class MovieLens:
    """Ratings with the fields user and item; label = the rating, time = seconds.

    version: which data set; its folder and archive are called ml-<version>. root: where they are looked for and
    downloaded to. mirrors: addresses of the archive, tried in turn. checksum: such as md5:…, of a download; archives
    that are there already are used as they are. min_ratings: films with fewer ratings are left out, and their rows.
    """

    fields = (Field("user", "categorical"), Field("item", "categorical"))
    task: TaskName = "rating"
    user_field = "user"

    def __init__(
        self,
        version: Version,
        root: str,
        mirrors: Sequence[str] = (),
        checksum: str | None = None,
        min_ratings: Count = 1,
    ) -> None:
        self.name = f"movielens-{version}"
        self.root, self.mirrors, self.checksum = root, tuple(mirrors), checksum
        self.min_ratings = min_ratings
        self._folder = f"ml-{version}"
        self._layout = _LAYOUTS.get(version, _CSV)

    def identity(self) -> dict[str, Any]:
        """See `Source`; downloads the archive when neither folder nor archive is there."""
        filtered = {} if self.min_ratings == 1 else {"min_ratings": self.min_ratings}
        return {"reader": READER, **filtered, **self._file().identity()}

    def chunks(self) -> Iterator[Chunk]:
        """See `Source`; with min_ratings > 1 in two passes, the first to count."""
        if self.min_ratings == 1:
            yield from self._rows()
            return
        ratings: Counter[int] = Counter()
        for chunk in self._rows():
            ratings.update(dict(zip(*np.unique(chunk.columns["item"], return_counts=True), strict=True)))
        if all(count < self.min_ratings for count in ratings.values()):
            most = max(ratings.values(), default=0)
            raise DataError(f"data.min_ratings={self.min_ratings}: no film has so many ratings, the most are {most}")
        rare = np.array([item for item, count in ratings.items() if count < self.min_ratings], dtype=np.int64)
        for chunk in self._rows():
            yield _without_items(chunk, rare)

    def _rows(self) -> Iterator[Chunk]:
        """All rows, as they lie there."""
        file = self._file()
        for block in file.blocks():
            block = self._without_header(file, block)
            if block.text:
                yield self._chunk(file, block)

    def _file(self) -> TextFile:
        """The ratings file: unpacked, else in the archive, else downloaded."""
        root = expand(self.root)
        unpacked = root / self._folder / self._layout.file
        if unpacked.exists():
            return TextFile(unpacked)
        archive = root / f"{self._folder}.zip"
        if not archive.exists():
            fetch(self.name, self.mirrors, self.checksum, archive)
        return TextFile(archive, f"{self._folder}/{self._layout.file}")

    def _without_header(self, file: TextFile, block: Block) -> Block:
        header = self._layout.header
        if header is None or block.first != 1:
            return block
        first, _, rest = block.text.partition(b"\n")
        if first.strip() != header:
            raise DataError(
                f"{file.where(1)}: it begins {first[:60].decode(errors='backslashreplace')!r}, expected the header "
                f"{header.decode()}; is this {self.name}?"
            )
        return Block(rest, 2, block.done)

    def _chunk(self, file: TextFile, block: Block) -> Chunk:
        if len(self._layout.separator) > 1:
            block = Block(block.text.replace(self._layout.separator, b"\t"), block.first, block.done)
        separator = b"\t" if len(self._layout.separator) > 1 else self._layout.separator
        expected = f"{self.name} has 4 ({', '.join(_COLUMNS)}, separated by {self._layout.separator.decode()!r})"
        check_columns(file, block, separator, len(_COLUMNS), expected)
        frame = _parse(block, separator)
        if frame is None:
            raise _fault(file, block, separator)
        return Chunk(
            {"user": frame["user"].to_numpy(), "item": frame["item"].to_numpy()},
            frame["rating"].to_numpy(),
            frame["timestamp"].to_numpy(),
            block.done,
        )


def _without_items(chunk: Chunk, items: np.ndarray) -> Chunk:
    kept = ~np.isin(chunk.columns["item"], items)
    columns = {name: column[kept] for name, column in chunk.columns.items()}
    time = None if chunk.time is None else chunk.time[kept]
    return Chunk(columns, chunk.label[kept], time, chunk.done)


def _parse(block: Block, separator: bytes) -> pd.DataFrame | None:
    """The block's columns, or None if something in it is no number."""
    types: dict[str, Any] = {"user": np.int64, "item": np.int64, "rating": np.float32, "timestamp": np.int64}
    try:
        with np.errstate(invalid="ignore"):  # of a number too large for int64, which then raises
            frame = read_table(block, separator, types)
    except (ValueError, OverflowError):
        return None
    return frame if np.isfinite(frame["rating"].to_numpy()).all() else None


def _fault(file: TextFile, block: Block, separator: bytes) -> DataError:
    """The first line in which something is no number."""
    for number, line in numbered_lines(block):
        for name, text in zip(_COLUMNS, line.split(separator.decode()), strict=True):
            fits, wanted = (is_number, "a number") if name == "rating" else (_is_whole, "a whole number")
            if not fits(text):
                return DataError(
                    f"{file.where(number)}: {name} is {text!r}, expected {wanted}; mend or remove this line"
                )
    return DataError(f"{file.where(block.first)}: some of these lines cannot be read; is the file whole?")


def _is_whole(text: str) -> bool:
    try:
        return -(2**63) <= int(text) < 2**63
    except ValueError:
        return False
