"""MovieLens ratings in GroupLens' own layouts, from a folder, from GroupLens' zip as it is, or downloaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dnis_lightning.data.delimited import BadRows, Rows, read_rows
from dnis_lightning.data.download import fetch
from dnis_lightning.data.layout import Column, Format
from dnis_lightning.data.source import Chunk, Field
from dnis_lightning.data.text import TextFile
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
_COLUMNS = (Column("user", "whole"), Column("item", "whole"), Column("rating", "number"), Column("timestamp", "whole"))


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
        bad_rows: BadRows = "error",
    ) -> None:
        self.name, self.bad_rows = f"movielens-{version}", bad_rows
        self.root, self.mirrors, self.checksum = root, tuple(mirrors), checksum
        self.min_ratings = min_ratings
        self._folder = f"ml-{version}"
        self._layout = _LAYOUTS.get(version, _CSV)

    def identity(self) -> dict[str, Any]:
        """See `Source`; downloads the archive when neither folder nor archive is there."""
        filtered = {} if self.min_ratings == 1 else {"min_ratings": self.min_ratings}
        skipping = {} if self.bad_rows == "error" else {"bad_rows": self.bad_rows}
        return {"reader": READER, **filtered, **skipping, **self._file().identity()}

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
            yield chunk.only(~np.isin(chunk.columns["item"], rare))

    def _rows(self) -> Iterator[Chunk]:
        """All rows, as they lie there."""
        names = ", ".join(column.name for column in _COLUMNS)
        separator = self._layout.separator
        says = f"{self.name} has 4 ({names}, separated by {separator.decode()!r})"
        layout = Format(_COLUMNS, separator, says, self._layout.header)
        for rows in read_rows(self._file(), layout, self.bad_rows):
            yield _chunk(rows)

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


def _chunk(rows: Rows) -> Chunk:
    column = {name: rows.table[name].to_numpy() for name in rows.table.column_names}
    ids = {"user": column["user"], "item": column["item"]}
    return Chunk(ids, column["rating"], column["timestamp"], rows.done, None, rows.skipped, rows.example)
