"""The Criteo display-advertising log: a click, 13 numbers I1 … I13 and 26 categories C1 … C26."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dnis_lightning.data.delimited import BadRows, Rows, read_rows
from dnis_lightning.data.layout import Column, Format
from dnis_lightning.data.source import PARTS, Chunk, Field
from dnis_lightning.data.text import TextFile
from dnis_lightning.errors import DataError
from dnis_lightning.paths import expand
from dnis_lightning.quantities import TaskName

READER = 2
NUMBERS = tuple(f"I{i}" for i in range(1, 14))
CATEGORIES = tuple(f"C{i}" for i in range(1, 27))
_BY_NAME = {
    "label": Column("label", "click"),
    **{name: Column(name, "number", optional=True) for name in NUMBERS},
    **{name: Column(name, "text") for name in CATEGORIES},
}
_KAGGLE = Format(
    tuple(_BY_NAME.values()),
    b"\t",
    "Criteo has 40 (label, I1–I13, C1–C26)",
    hint="is this train.txt (test.txt has no labels)?",
)
_PARTS = {"train": "train", "valid": "select", "test": "test"}
_PLACES = (
    "criteo/train.txt",
    "train.txt",
    "criteo/train.txt.gz",
    "train.txt.gz",
    "criteo/dac.tar.gz",
    "dac.tar.gz",
)


class Criteo:
    """Clicks with 39 fields; an empty column is missing, which is a feature of its own in each field.

    root: train.txt, as it is, as train.txt.gz or within dac.tar.gz, is looked for there and in its folder `criteo`.
    path: the file itself, instead; or a folder with the files train, valid and test of a form that was split
    beforehand, .csv or .libsvm (BARS' Criteo_x1 and Criteo_x4): `data.split=column` keeps that split.
    """

    name = "criteo"
    task: TaskName = "ctr"
    user_field = None
    fields = tuple(Field(name, "numeric") for name in NUMBERS) + tuple(
        Field(name, "categorical") for name in CATEGORIES
    )

    def __init__(self, root: str = ".", path: str | None = None, bad_rows: BadRows = "error") -> None:
        self.root, self.path, self.bad_rows = root, path, bad_rows

    def identity(self) -> dict[str, Any]:
        """See `Source`."""
        files = [file.identity() for file, _ in self._files()]
        skipping = {} if self.bad_rows == "error" else {"bad_rows": self.bad_rows}
        return {"reader": READER, **skipping, **(files[0] if len(files) == 1 else {"files": files})}

    def chunks(self) -> Iterator[Chunk]:
        """See `Source`; `part` is given where the files are split beforehand."""
        files = self._files()
        sizes = np.array([file.identity()["size"] for file, _ in files], dtype=np.float64)
        starts = np.append(0, np.cumsum(sizes)) / max(sizes.sum(), 1)
        for (file, part), start, end in zip(files, starts, starts[1:], strict=False):
            layout = _layout(file)
            for rows in read_rows(file, layout, self.bad_rows):
                yield _chunk(rows, part, float(start + (end - start) * rows.done))

    def _files(self) -> list[tuple[TextFile, str | None]]:
        """The files, each with the part that its name gives; raises DataError when there are none."""
        if self.path is None:
            return [(self._found(), None)]
        path = expand(self.path)
        if not path.is_dir():
            return [(_text_file(path), None)]
        for ending in (".csv", ".csv.gz", ".libsvm", ".libsvm.gz"):
            files = [(TextFile(path / f"{name}{ending}"), part) for name, part in _PARTS.items()]
            if all(file.path.is_file() for file, _ in files):
                return list(files)
        raise DataError(
            f"data.path={self.path}: a folder without train, valid and test, .csv or .libsvm; name the file, or the "
            "folder of a form that was split beforehand"
        )

    def _found(self) -> TextFile:
        places = [expand(self.root) / place for place in _PLACES]
        for place in places:
            if place.is_file():
                return _text_file(place)
        raise DataError(
            f"{places[0]}: not there, nor {places[1]}, nor either as .gz, nor dac.tar.gz; its licence forbids a "
            "download from here: get train.txt of the Kaggle display-advertising challenge from Criteo and put it "
            "there, or name it with data.path="
        )


def _text_file(path: Path) -> TextFile:
    return TextFile(path, "train.txt" if path.name.endswith((".tar.gz", ".tgz", ".tar")) else None)


def _layout(file: TextFile) -> Format:
    """The form of a file, by its first line."""
    first = next(iter(file.blocks())).text.split(b"\n", 1)[0].strip()
    if b"\t" not in first and b"," in first:
        return _csv(file, first)
    if b"\t" not in first and b":" in first:
        return _libsvm(file, first)
    return _KAGGLE


def _csv(file: TextFile, header: bytes) -> Format:
    names = [name.strip() for name in header.decode(errors="replace").split(",")]
    low = [name.lower() for name in names]
    absent = [name for name in _BY_NAME if name.lower() not in low]
    if len(absent) == len(_BY_NAME):
        raise DataError(
            f"{file.where(1)}: it begins {header[:60].decode(errors='backslashreplace')!r}, expected a header with "
            "label, I1–I13 and C1–C26; is this the right file?"
        )
    if absent:
        some = ", ".join(absent[:5]) + (", …" if len(absent) > 5 else "")
        raise DataError(f"{file.where(1)}: no column {some} in this header; expected label, I1–I13 and C1–C26")
    twice = [name for name in _BY_NAME if low.count(name.lower()) > 1]
    if twice:
        raise DataError(f"{file.where(1)}: column {twice[0]} is twice in this header; remove one of the two")
    known = {name.lower(): column for name, column in _BY_NAME.items()}
    others = (Column(f"{place}: {name}", "unread") for place, name in enumerate(names))
    columns = tuple(known.get(name, other) for name, other in zip(low, others, strict=True))
    return Format(columns, b",", f"the header has {len(columns)}", header=header)


def _libsvm(file: TextFile, first: bytes) -> Format:
    """Pairs id:value; the numbers I1 … I13 have the ids of the first line in every line."""
    ids = [pair.partition(b":")[0].decode(errors="replace") for pair in first.split(b" ")[1 : len(NUMBERS) + 1]]
    if ids not in ([str(i) for i in range(begin, begin + len(NUMBERS))] for begin in (0, 1)):
        raise DataError(
            f"{file.where(1)}: it begins {first[:60].decode(errors='backslashreplace')!r}, expected a label and then "
            "1:I1 … 13:I13 and 26 pairs id:1; is this the right file?"
        )
    pairs = [(Column(number, "fixed"), _BY_NAME[name]) for number, name in zip(ids, NUMBERS, strict=True)]
    pairs += [(_BY_NAME[name], Column(f"{name}: value", "unread")) for name in CATEGORIES]
    columns = (_BY_NAME["label"], *(column for pair in pairs for column in pair))
    return Format(columns, b" ", "libsvm has 79 here (label, 39 pairs id:value)", alias=b":", padded=True)


def _chunk(rows: Rows, part: str | None, done: float) -> Chunk:
    table = rows.table
    given = None if part is None else np.full(len(table), PARTS.index(part), dtype=np.uint8)
    columns = {name: table[name] for name in (*NUMBERS, *CATEGORIES)}
    return Chunk(columns, table["label"].to_numpy(), None, done, given, rows.skipped, rows.example)
