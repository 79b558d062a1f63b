"""The mapping from raw values to table rows, as it travels with a run: `data.schema` and `vocabulary.parquet`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from dnis_lightning.batch import Batch
from dnis_lightning.data import readings
from dnis_lightning.data.prepare import Prepared
from dnis_lightning.data.source import Column, RawForm
from dnis_lightning.errors import DataError, RunError
from dnis_lightning.packed import PackedEmbedding
from dnis_lightning.packed.fields import FieldIds, PackedField
from dnis_lightning.packed.numbers import from_json
from dnis_lightning.packed.tensors import DAMAGE
from dnis_lightning.paths import whole_file

SCHEMA = 2
FILE, IDS = "data.schema", "vocabulary.parquet"


def save_mapping(folder: Path, prepared: Prepared) -> None:
    """Write both files, each whole or not at all.

    data.schema (JSON): for each field its kind, its rows of the table (first, end), and what becomes of numbers; the
    first row of each field stands for what has no row of its own; what raw text means, besides itself; and of which
    data: their fingerprint, which is another when a file is touched, and a checksum of the encoded select rows.
    vocabulary.parquet: field, id, row of every raw id that has one.
    """
    vocabulary, layout = prepared.vocabulary, prepared.parts["train"].layout
    offsets, treated = vocabulary.offsets.tolist(), iter(vocabulary.numbers)
    fields = [
        {
            "name": field.name,
            "kind": field.kind,
            "rows": [offsets[number], offsets[number + 1]],
            "numbers": next(treated).to_json() if field.kind == "numeric" else None,
        }
        for number, field in enumerate(vocabulary.fields)
    ]
    told = {
        "schema": SCHEMA,
        "data": prepared.dataset.name,
        "task": prepared.dataset.task,
        "fingerprint": prepared.dataset.fingerprint,
        "select_crc": prepared.parts["select"].checksum(),
        "columns": layout.bounds,
        "pooling": layout.pooling,
        "raw_form": asdict(prepared.raw_form),
        "fields": fields,
        "ids": IDS,
    }
    with whole_file(folder / IDS) as part, pq.ParquetWriter(part, _PARQUET, compression="zstd") as writer:
        for number, field in enumerate(vocabulary.fields):
            if field.kind == "numeric":
                continue
            codes = vocabulary.code_of[offsets[number] + 1 : offsets[number + 1]]
            ids = prepared.dataset.raw_ids(field.name).take(codes)
            rows = np.arange(offsets[number] + 1, offsets[number + 1], dtype=np.int64)
            names = pa.DictionaryArray.from_arrays(np.zeros(len(ids), np.int32), [field.name])
            writer.write_table(pa.table({"field": names.cast(pa.string()), "id": ids, "row": rows}, schema=_PARQUET))
    with whole_file(folder / FILE) as part:
        part.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


_PARQUET = pa.schema([("field", pa.string()), ("id", pa.string()), ("row", pa.int64())])


@dataclass(frozen=True)
class RawMapping:
    """Raw columns → what a model takes; knows nothing of the data set that it was made from."""

    fields: tuple[PackedField, ...]
    pooling: str
    form: RawForm = field(default_factory=RawForm)

    @classmethod
    def load(cls, folder: Path | str) -> RawMapping:
        """Read what `save_mapping` wrote. Raises RunError when it is absent or damaged."""
        folder = Path(folder)
        try:
            told = json.loads((folder / FILE).read_text(encoding="utf-8"))
            if told["schema"] != SCHEMA:
                raise ValueError(f"schema {told['schema']}, expected {SCHEMA}")
            table = pq.read_table(folder / told["ids"])
            fields = tuple(_field(told, number, table) for number in range(len(told["fields"])))
            return cls(fields, _known_pooling(told["pooling"]), _raw_form(told["raw_form"]))
        except DAMAGE as fault:
            raise RunError(f"{folder / FILE}: cannot be read ({fault}); name the folder of a run") from fault

    @classmethod
    def of(cls, embedding: PackedEmbedding) -> RawMapping:
        """That of a packed embedding which says how raw rows are read. Raises RunError where it does not."""
        try:
            told = embedding.told
            return cls(embedding.fields, _known_pooling(told["pooling"]), _raw_form(told["raw_form"]))
        except DAMAGE as fault:
            raise RunError(
                f"the manifest does not say how raw rows are read ({fault}); export the run again"
            ) from fault

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the raw columns that `encode` needs."""
        return tuple(one.name for one in self.fields)

    def encode(self, columns: Mapping[str, Column] | pa.Table, unknown: dict[str, int] | None = None) -> Batch:
        """Raw columns, one for each field, as a batch with labels of 0.

        unknown: to what it has for each field, the number of ids is added that have no row of their own.

        Ids may be of any type, numbers text, too; multi fields take lists, or the text that training took. Null, "" and
        what stood for a missing value in training are missing.
        Raises DataError where a field has no column, one of another type than in training, or of another length.
        """
        if isinstance(columns, pa.Table):
            columns = {name: columns[name] for name in columns.column_names}
        absent = [name for name in self.columns if name not in columns]
        if absent:
            raise DataError(f"no column {', '.join(absent)}; the model was trained on them")
        rows = len(columns[self.columns[0]])
        bounds = np.cumsum([0, *(one.columns for one in self.fields)])
        ids = np.empty((rows, bounds[-1]), dtype=np.int64)
        values = np.ones(ids.shape, dtype=np.float32)
        for one, start, end in zip(self.fields, bounds, bounds[1:], strict=False):
            ids[:, start:end], values[:, start:end] = self._of_column(one, columns[one.name], rows, unknown)
        offsets = torch.from_numpy(bounds) if any(one.kind == "multi" for one in self.fields) else None
        scale = torch.from_numpy(values) if any(one.scaled for one in self.fields) else None
        return Batch(torch.from_numpy(ids), torch.zeros(rows), scale, offsets)

    def _of_column(
        self, one: PackedField, column: Column, rows: int, unknown: dict[str, int] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The field's columns of a batch, ids and values, (rows, width) each."""
        name = one.name
        if len(column) != rows:
            raise DataError(f"{name} has {len(column)} rows, {self.columns[0]} has {rows}; take columns of one length")
        try:
            return self._encoded(one, self._read(one, column), {} if unknown is None else unknown)
        except (pa.ArrowException, TypeError, ValueError) as fault:
            reason = str(fault).splitlines()[0]
            raise DataError(f"{name}: no column to read {_TAKES[one.kind]} from ({reason})") from fault

    def _encoded(
        self, one: PackedField, column: pa.ChunkedArray, unknown: dict[str, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        if one.kind == "numeric":
            ids, values = one.of_numbers(_numbers(one.name, column))
            return ids[:, None], values[:, None]
        if one.kind == "categorical":
            rows, strange = self._rows_of(one, column)
            unknown[one.name] = unknown.get(one.name, 0) + int(strange.sum())
            return rows[:, None], np.ones((len(column), 1), np.float32)
        flat, ends = readings.flat(self._lists(one.name, column).combine_chunks())
        starts, width = np.append(0, ends[:-1]), one.columns
        counts, places = np.minimum(ends - starts, width)[:, None], np.arange(width)
        there = places < counts
        rows, strange = self._rows_of(one, _chunked(flat))
        at = np.where(there, starts[:, None] + places, 0)
        found = rows[at]
        unknown[one.name] = unknown.get(one.name, 0) + int((strange[at] & there).sum())
        return np.where(there, found, one.first), there / (counts if self.pooling == "mean" else 1)

    def _read(self, one: PackedField, column: Column) -> pa.ChunkedArray:
        """A column, null in place of what stands for a missing value."""
        raw = readings.plain(_chunked(column))
        if one.kind == "multi" or not readings.is_text(raw.type):
            return raw
        return pc.if_else(pc.is_in(raw, pa.array(self.form.missing, raw.type)), pa.scalar(None, raw.type), raw)

    def _lists(self, name: str, raw: pa.ChunkedArray) -> pa.ChunkedArray:
        """The ids of each row, without those that are missing. Raises DataError where they are not lists."""
        separator = self.form.multi_separator
        if pa.types.is_null(raw.type):
            raw = pc.cast(raw, pa.list_(pa.string()))
        if not readings.is_list(raw.type):
            if separator is None:
                raise DataError(f"{name} is of the type {raw.type}, expected lists of ids")
            raw = _texts(name, raw)
        return readings.lists(raw, separator or "", self.form.missing)

    def _rows_of(self, one: PackedField, raw: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        """The table row of each id, and whether it is there but has none of its own."""
        texts = readings.packed_texts(_texts(one.name, raw))
        rows = one.of_texts(texts)
        return rows, (rows == one.first) & (texts.sizes > 0)


def _raw_form(told: Mapping[str, Any]) -> RawForm:
    return RawForm(tuple(told["missing"]), told["multi_separator"], told.get("quoted"))


def _known_pooling(name: str) -> str:
    if name not in ("mean", "sum"):
        raise ValueError(f"pooling {name!r}")
    return name


def _chunked(column: Column) -> pa.ChunkedArray:
    if isinstance(column, np.ndarray):
        column = pa.array(column, from_pandas=True)
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])


_TAKES = {"categorical": "ids", "multi": "lists of ids", "numeric": "numbers"}


def _texts(name: str, raw: pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids as text. Raises DataError for the first that is none."""
    found = readings.texts(raw)
    if found.null_count:
        row = int(pc.is_null(found).to_numpy().argmax())
        raise DataError(
            f"row {row + 1}: {name} is {raw[row].as_py()!r}, expected text in UTF-8; mend or remove this row"
        )
    return found


def _numbers(name: str, raw: pa.ChunkedArray) -> np.ndarray:
    """(R,) float32, NaN = missing. Raises DataError for the first value that is no number."""
    found = readings.numbers(raw)
    wrong = pc.and_(pc.is_null(found), pc.invert(readings.is_missing(raw))).to_numpy()
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(f"row {row + 1}: {name} is {raw[row].as_py()!r}, expected a number; mend or remove this row")
    return pc.fill_null(found, np.nan).to_numpy().astype(np.float32, copy=False)


def _field(told: dict[str, Any], number: int, table: pa.Table) -> PackedField:
    field, bounds = told["fields"][number], told["columns"]
    first, end = field["rows"]
    numbers = None if field["numbers"] is None else from_json(field["numbers"])
    own = table.filter(pc.equal(table["field"], field["name"])).sort_by("row")
    ids = FieldIds.of(readings.packed_texts(own["id"])) if numbers is None else None
    return PackedField(field["name"], field["kind"], first, end, bounds[number + 1] - bounds[number], ids, numbers)
