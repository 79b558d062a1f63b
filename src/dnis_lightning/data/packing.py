"""The train vocabulary in the form in which it is shipped."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pyarrow as pa

from dnis_lightning.data import readings
from dnis_lightning.data.prepare import Prepared
from dnis_lightning.packed.fields import FieldIds, PackedField


def pack_fields(prepared: Prepared) -> tuple[PackedField, ...]:
    """The fields, with the raw ids that have a row of the table, and what becomes of numbers."""
    vocabulary, bounds = prepared.vocabulary, prepared.parts["train"].layout.bounds
    offsets, treated, packed = vocabulary.offsets.tolist(), iter(vocabulary.numbers), []
    for number, field in enumerate(vocabulary.fields):
        first, end = offsets[number], offsets[number + 1]
        numeric = field.kind == "numeric"
        packed.append(
            PackedField(
                field.name,
                field.kind,
                first,
                end,
                bounds[number + 1] - bounds[number],
                None if numeric else _ids(prepared, field.name, first + 1, end),
                next(treated) if numeric else None,
            )
        )
    return tuple(packed)


def how_raw_rows_are_read(prepared: Prepared) -> dict[str, Any]:
    """What else there is to know of raw rows: `pooling` of multi fields, `raw_form` of text, `user`, a field."""
    pooling = prepared.parts["train"].layout.pooling
    return {"pooling": pooling, "raw_form": asdict(prepared.raw_form), "user": prepared.dataset.user_field}


def _ids(prepared: Prepared, field: str, start: int, end: int) -> FieldIds:
    ids = prepared.dataset.raw_ids(field).take(prepared.vocabulary.code_of[start:end])
    return FieldIds.of(readings.packed_texts(pa.chunked_array([ids], pa.string())))
