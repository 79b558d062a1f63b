"""The fields of a table: which of its rows are whose, and which of them a raw value has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnis_lightning.packed.ids import FORMS, Ids, pack_ids
from dnis_lightning.packed.numbers import Binned, Numbers, Scaled, from_json
from dnis_lightning.packed.tensors import map_tensors, write_tensors
from dnis_lightning.packed.texts import Texts

Raw = Sequence[str | bytes | int | float | None] | np.ndarray
"""Raw values of a field."""
_MOST_COLUMNS = 1 << 16
_FORMAT = "dnis-lightning packed vocabulary"


@dataclass(frozen=True, eq=False)
class FieldIds:
    """The ids of a field, without "", which stands for a missing value and has the row `missing`, or 0 for none."""

    ids: Ids
    missing: int = 0

    @classmethod
    def of(cls, texts: Texts) -> FieldIds:
        """Of the ids of rows 1 … n, all of them different, "" perhaps among them."""
        empty = np.flatnonzero(texts.sizes == 0)
        return cls(pack_ids(texts.take(np.flatnonzero(texts.sizes))), int(empty[0]) + 1 if len(empty) else 0)

    @property
    def count(self) -> int:
        """n."""
        return self.ids.count + (self.missing > 0)

    def rows(self, texts: Texts) -> np.ndarray:
        """(T,) int64: the row of each of some ids within the field's, 0 where it has none of its own."""
        return np.where(texts.sizes > 0, self._beside_missing(self.ids.rows(texts)), self.missing)

    def rows_of_numbers(self, ids: np.ndarray) -> np.ndarray:
        """(T,) int64: the same of whole numbers (T,)."""
        return self._beside_missing(self.ids.rows_of_numbers(ids))

    def packed_names(self) -> Texts:
        """The ids of rows 1 … n, "" for what is missing."""
        found = self.ids.texts()
        if not self.missing:
            return found
        at = self.missing - 1
        return Texts(found.content, np.insert(found.starts, at, 0), np.insert(found.sizes, at, 0))

    def names(self) -> list[str]:
        """The same as Python's own."""
        return self.packed_names().decoded()

    def _beside_missing(self, rows: np.ndarray) -> np.ndarray:
        return rows + (rows >= self.missing) if self.missing else rows


@dataclass(frozen=True, eq=False)
class PackedField:
    """A field: rows first … end − 1 of the table, of which the first stands for what has none of its own.

    kind: as of `data.source.Field`. columns: how many columns of a batch it has. ids: where it has ids. numbers: what
    becomes of the numbers of a numeric field: one row, first + 1, with a value, or a bin each from there on.
    """

    name: str
    kind: str
    first: int
    end: int
    columns: int = 1
    ids: FieldIds | None = None
    numbers: Numbers | None = None

    @property
    def scaled(self) -> bool:
        """Whether its rows are multiplied by something: by a number, or by what makes a mean of several rows."""
        return self.kind == "multi" or isinstance(self.numbers, Scaled)

    def features(self, raw: Raw) -> np.ndarray:
        """(T,) int64: the table row of each of some raw values (T,); see `encode`."""
        return self.encode(raw)[0]

    def encode(self, raw: Raw) -> tuple[np.ndarray, np.ndarray]:
        """The table rows (T,) int64 of raw values (T,), and what multiplies these, (T,) float32.

        raw: ids, or numbers in a numeric field; None and "" are missing, and a number that is NaN.
        Raises TypeError where ids are no text and no whole numbers, ValueError where a number cannot be read, or is too
        large for float32.
        """
        if isinstance(raw, str | bytes):
            raise TypeError(f"{raw!r}: one value; give a list of them")
        if self.numbers is not None:
            return self.of_numbers(_numbers(raw))
        assert self.ids is not None, "it has ids or numbers"
        if isinstance(raw, np.ndarray) and raw.dtype.kind in "iu" and raw.dtype != np.uint64:
            rows = self.first + self.ids.rows_of_numbers(raw.astype(np.int64))
        else:
            rows = self.of_texts(Texts.of([_text(one) for one in raw]))
        return rows, np.ones(len(rows), dtype=np.float32)

    def of_texts(self, texts: Texts) -> np.ndarray:
        """(T,) int64: the table rows of ids as text."""
        assert self.ids is not None, "numeric fields have no ids"
        return self.first + self.ids.rows(texts)

    def of_numbers(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The table rows (T,) int64 of numbers (T,) float32, NaN = missing, and what multiplies these, (T,) float32."""
        assert self.numbers is not None, "only numeric fields have numbers"
        made, ones = self.numbers(numbers), np.ones(len(numbers), dtype=np.float32)
        if isinstance(self.numbers, Binned):
            return self.first + 1 + made, ones
        missing = np.isnan(made)
        return self.first + ~missing, np.where(missing, ones, made)


def _numbers(raw: Raw) -> np.ndarray:
    numbers = np.array([np.nan if one is None or one in ("", b"") else one for one in raw], dtype=np.float64)
    with np.errstate(over="ignore"):
        single = numbers.astype(np.float32)
    if not (np.isfinite(single) | np.isnan(numbers)).all():
        raise ValueError(f"{numbers[np.isinf(single)][0]:g} is no finite number of single precision")
    return single


def _text(raw: Any) -> str | bytes:
    if raw is None:
        return b""
    if isinstance(raw, str | bytes):
        return raw
    if isinstance(raw, int | np.integer) and not isinstance(raw, bool):
        return str(int(raw))
    raise TypeError(f"{raw!r}: ids are text or whole numbers; write it as it was in training")


def write_fields(path: Path, fields: Sequence[PackedField]) -> list[dict[str, Any]]:
    """Write the ids of all fields into a file; what `read_fields` has to be told beside it, as JSON has it."""
    tensors: dict[str, np.ndarray] = {}
    told: list[dict[str, Any]] = []
    for number, one in enumerate(fields):
        numbers = None if one.numbers is None else one.numbers.to_json()
        told.append({"name": one.name, "kind": one.kind, "rows": [one.first, one.end], "columns": one.columns})
        told[-1] |= {"numbers": numbers} if one.ids is None else {"ids": one.ids.ids.form, "missing": one.ids.missing}
        if one.ids is not None:
            tensors |= {f"{number}.{name}": array for name, array in one.ids.ids.tensors().items()}
    write_tensors(path, tensors, {"format": _FORMAT})
    return told


def read_fields(path: Path, told: Sequence[Mapping[str, Any]]) -> tuple[PackedField, ...]:
    """What `write_fields` wrote, memory-mapped.

    Raises one of `tensors.DAMAGE` where it is absent, damaged or something else.
    """
    tensors, words = map_tensors(path)
    if words.get("format") != _FORMAT:
        raise ValueError(f"{path.name} is no packed vocabulary")
    fields = tuple(_field(number, one, tensors) for number, one in enumerate(told))
    for one, start in zip(fields, [0, *(one.end for one in fields)], strict=False):
        rows = one.end - one.first - 1
        if one.first != start or rows < 0 or (one.ids is not None and one.ids.count != rows):
            raise ValueError(f"the rows of the field {one.name} are not what its ids want")
    return fields


def _field(number: int, told: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> PackedField:
    prefix, ids, numbers = f"{number}.", None, None
    if "ids" in told:
        own = {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
        if told["ids"] not in FORMS:
            raise ValueError(f"ids as {told['ids']}, which this program does not know")
        ids = FieldIds(FORMS[told["ids"]].read(own), told["missing"])
    else:
        numbers = from_json(told["numbers"])
    if (told["kind"], ids is None) not in (("categorical", False), ("multi", False), ("numeric", True)):
        raise ValueError(f"the field {told['name']} is {told['kind']}, which does not go with what it has")
    if not 1 <= told["columns"] <= (_MOST_COLUMNS if told["kind"] == "multi" else 1):
        raise ValueError(f"the field {told['name']} has {told['columns']} columns")
    first, end = told["rows"]
    return PackedField(told["name"], told["kind"], first, end, told["columns"], ids, numbers)
