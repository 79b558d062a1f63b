"""A table as plain arrays, for systems that know nothing of packed ones."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dnis_lightning.data.arrays import ArrayFile
from dnis_lightning.errors import RunError
from dnis_lightning.packed import PackedTable
from dnis_lightning.packed.embedding import PLAIN
from dnis_lightning.packed.fields import PackedField
from dnis_lightning.packed.layouts import Blocks
from dnis_lightning.paths import write_json

log = logging.getLogger(__name__)

MOST_TABLES = 1024
_MANY_TABLES = 64
_ROWS_AT_ONCE = 1 << 16


def write_dense(folder: Path, table: PackedTable, fields: Sequence[PackedField], more: Mapping[str, Any]) -> None:
    """Write weight.npy, (N, K) float32 with projections multiplied in, ids.parquet and tables.json."""
    weight = ArrayFile(folder / "weight.npy", np.float32, table.dims)
    try:
        for start in range(0, table.features, _ROWS_AT_ONCE):
            weight.append(table.rows(np.arange(start, min(start + _ROWS_AT_ONCE, table.features))))
        weight.close()
    finally:
        weight.abandon()
    columns = list(range(table.dims))
    tables = [{"file": "weight.npy", "rows": table.features, "dims": table.dims, "columns": columns}]
    write_described(folder, table, fields, {"tables": tables, **more})


def write_structured(folder: Path, table: PackedTable, fields: Sequence[PackedField], more: Mapping[str, Any]) -> None:
    """Write a dense table for each set of dimensions that features keep, ids.parquet and tables.json.

    table0.npy, … (rows, dims) float32 each; table_of.npy and row_of.npy (N,): where the row of each feature is. Rows
    that are to be multiplied have a table apart, and projection0.npy, … (dims, K), or (C · d, K) for C > 1 tables of K
    dimensions side by side. Raises RunError where there are more than `MOST_TABLES` of them.
    """
    indptr, positions, values = table.entries()
    layout = Blocks.of(indptr, positions, table.dims)
    keys, table_of = _groups(layout, table)
    row_of, tables = np.zeros(table.features, dtype=np.uint32), []
    if len(keys) > _MANY_TABLES:
        log.warning(
            "%s tables for %s rows: this cut keeps single entries; prune=gates makes one table or so a block",
            f"{len(keys):,}",
            f"{table.features:,}",
        )
    ends = np.bincount(table_of, minlength=len(keys)).cumsum()
    of_each = np.split(np.argsort(table_of, kind="stable"), ends[:-1])
    for number, ((pattern, block), mine) in enumerate(zip(keys.tolist(), of_each, strict=True)):
        dims = int(layout.widths[pattern])
        row_of[mine] = np.arange(len(mine))
        np.save(folder / f"table{number}.npy", values[indptr[mine][:, None] + np.arange(dims)])
        columns = positions[indptr[mine[0]] : indptr[mine[0]] + dims].tolist()
        tables.append({"file": f"table{number}.npy", "rows": len(mine), "dims": dims, "columns": columns})
        if block and table.projections is not None:
            tables[-1]["projection"] = f"projection{number}.npy"
            matrix = table.projections.matrices[block - 1]
            if matrix.shape[1] == table.dims:  # a row for each column; of those that a dense layout has as zeros, too
                matrix = np.pad(matrix, ((0, table.dims - len(matrix)), (0, 0)))[columns]
            np.save(folder / tables[-1]["projection"], matrix)
    np.save(folder / "table_of.npy", table_of.astype(np.uint16))
    np.save(folder / "row_of.npy", row_of)
    write_described(
        folder, table, fields, {"tables": tables, "table_of": "table_of.npy", "row_of": "row_of.npy", **more}
    )


def _groups(layout: Blocks, table: PackedTable) -> tuple[np.ndarray, np.ndarray]:
    """Pattern and block (0: none that multiplies) of each table, (T, 2); and which of them each feature is in, (N,)."""
    features = np.arange(table.features)
    pattern = layout.pattern[layout.runs(features)].astype(np.int64)
    block = np.zeros_like(pattern) if table.projections is None else table.projections.blocks(features).astype(np.int64)
    most = int(block.max(initial=0)) + 1
    found, table_of = np.unique(pattern * most + block, return_inverse=True)
    if len(found) > MOST_TABLES:
        raise RunError(
            f"--format structured: this cut keeps single entries, in {len(found):,} different sets of dimensions, of "
            f"which there may be {MOST_TABLES:,}; prune.by=gates keeps whole dimensions of each block"
        )
    return np.stack([found // most, found % most], axis=1), table_of


def write_described(folder: Path, table: PackedTable, fields: Sequence[PackedField], told: Mapping[str, Any]) -> None:
    """Write ids.parquet, the row of every raw id: field, id, row; and tables.json, what is where, with `told` in it."""
    kind = pa.schema([("field", pa.string()), ("id", pa.string()), ("row", pa.int64())])
    with pq.ParquetWriter(folder / "ids.parquet", kind, compression="zstd") as writer:
        for one in fields:
            if one.ids is not None:
                ids = one.ids.names()
                rows = np.arange(one.first + 1, one.end, dtype=np.int64)
                writer.write_table(pa.table({"field": [one.name] * len(ids), "id": ids, "row": rows}, schema=kind))
    described = [
        {
            "name": one.name,
            "kind": one.kind,
            "columns": one.columns,
            "rows": [one.first, one.end],
            "row_of_other_ids": one.first,
            "numbers": None if one.numbers is None else one.numbers.to_json(),
        }
        for one in fields
    ]
    whole = {"features": table.features, "dims": table.dims, "ids": "ids.parquet", "fields": described, **told}
    write_json(folder / PLAIN, whole)
