"""MovieLens ratings in GroupLens' own layouts, from a folder or from the zip as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dnis_lightning.data.download import fetch
from dnis_lightning.data.source import Chunk, Field
from dnis_lightning.data.text import TextTable, identity_of
from dnis_lightning.paths import expand

Version = Literal["100k", "1m", "20m", "25m", "32m", "latest", "latest-small"]


@dataclass(frozen=True)
class _Layout:
    file: str
    separator: str
    header: bool


_TAB, _COLONS, _CSV = (
    _Layout("u.data", "\t", False),
    _Layout("ratings.dat", "::", False),
    _Layout("ratings.csv", ",", True),
)
_LAYOUTS = {"100k": _TAB, "1m": _COLONS}


class MovieLens:
    """Ratings with fields `user` and `item`; ids are kept as text.

    version: which set; root: the folder that holds `ml-<version>/` or `ml-<version>.zip`, and where the zip is downloaded
    to when neither is there. mirrors: addresses to download it from; md5: of the download, or None.
    """

    task = "rating"
    fields = (Field("user"), Field("item"))
    user_field = "user"

    def __init__(self, version: Version, root: str, mirrors: Sequence[str] = (), md5: str | None = None) -> None:
        self.version, self.root = version, expand(root)
        self.mirrors, self.md5 = tuple(mirrors), md5
        self.name = f"movielens-{version}"
        self.layout = _LAYOUTS.get(version, _CSV)

    def identity(self) -> dict[str, Any]:
        """Version of this reader, and of the file."""
        return {"reader": 1, **identity_of(*self._place())}

    def chunks(self) -> Iterator[Chunk]:
        """The ratings in the file's order.

        Raises DataError naming file and line for anything but user, item, rating, time.
        """
        path, member = self._place()
        table = TextTable(path, self.layout.separator, 4, "MovieLens ratings", member, self.layout.header)
        for line, frame in table.frames():
            yield Chunk(
                {"user": frame[0].to_numpy(), "item": frame[1].to_numpy()},
                table.numbers(frame[2], line, "the rating"),
                _times(table, frame[3], line),
            )

    def _place(self) -> tuple[Path, str | None]:
        """The file, or the archive and the member in it; downloads where there is neither."""
        folder = f"ml-{self.version}"
        unpacked, archive = self.root / folder / self.layout.file, self.root / f"{folder}.zip"
        if unpacked.exists():
            return unpacked, None
        if not archive.exists():
            fetch(archive, self.mirrors, self.md5, f"or unpack it to {self.root / folder}")
        return archive, f"{folder}/{self.layout.file}"


def _times(table: TextTable, column: Any, line: int) -> np.ndarray:
    table.numbers(column, line, "the time")
    return column.to_numpy().astype(np.float64).astype(np.int64)
