"""A whole predictor as an ONNX graph, the lookup of a packed table inside."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from dnis_lightning.batch import Batch
from dnis_lightning.embedding.packed_table import widened
from dnis_lightning.embedding.table import EmbeddingTable
from dnis_lightning.errors import RunError
from dnis_lightning.lookup import Gather
from dnis_lightning.packed import PackedTable
from dnis_lightning.packed.layouts import Dense
from dnis_lightning.packed.values import from_bf16

if TYPE_CHECKING:
    from dnis_lightning.serving import Predictor

FILE = "model.onnx"
CLOSE = 1e-5
"""How far scores may be off torch's: the absolute and the relative tolerance."""


class PaddedLookup(nn.Module):
    """Rows (…, K) of features (…) by gathering as many entries for each as the widest has, and scattering them.

    ONNX has no lists of different lengths. Values and dimensions are stored as in the layout csr, starts in four bytes.
    """

    values: Tensor
    positions: Tensor
    starts: Tensor
    scales: Tensor | None
    first: Tensor
    block: Tensor

    def __init__(self, table: PackedTable) -> None:
        super().__init__()
        indptr, positions, _ = table.entries()
        if indptr[-1] >= 2**31:
            raise RunError(f"--format onnx: it takes 2^31 entries at most, the table keeps {indptr[-1]:,}")
        self.dims, self.dense = table.dims, isinstance(table.layout, Dense)
        self.widest = int(np.diff(indptr).max(initial=0))
        padding = np.zeros(0 if self.dense else self.widest, dtype=np.int64)  # what is read beyond the last entry
        stored = np.append(table.values.stored, padding.astype(table.values.stored.dtype))
        values = torch.from_numpy(stored.view(np.int16) if table.values.dtype == "bf16" else stored)
        self.register_buffer("values", values.view(torch.bfloat16) if table.values.dtype == "bf16" else values)
        if not self.dense:
            kind = np.uint8 if self.dims <= 256 else np.int16
            self.register_buffer("positions", torch.from_numpy(np.append(positions, padding).astype(kind)))
            self.register_buffer("starts", torch.from_numpy(indptr.astype(np.int32)))
        scales = table.values.scales
        self.register_buffer("scales", None if scales is None else torch.from_numpy(from_bf16(np.asarray(scales))))
        made = table.projections
        self.matrices = {} if made is None else {l: torch.from_numpy(np.array(one)) for l, one in made.matrices.items()}
        self.register_buffer("first", torch.from_numpy(np.array([0] if made is None else made.first).astype(np.int64)))
        self.register_buffer("block", torch.from_numpy(np.array([0] if made is None else made.block).astype(np.int64)))

    def forward(self, features: Tensor, gather: Gather | None = None) -> Tensor:
        """Rows (…, K) float32."""
        flat = features.reshape(-1)
        rows = self._rows(flat)
        if self.matrices:
            block = self.block[(flat[:, None] >= self.first).sum(1) - 1][:, None]
            for number, matrix in self.matrices.items():
                rows = torch.where(block == number + 1, widened(rows, matrix), rows)
        return rows.view(*features.shape, self.dims)

    def _rows(self, features: Tensor) -> Tensor:
        scales = 1.0 if self.scales is None else self.scales[features][:, None]
        if self.dense:
            return self.values.view(-1, self.dims)[features].float() * scales
        starts = self.starts[features].long()
        counts = self.starts[features + 1].long() - starts
        nth = torch.arange(self.widest, device=features.device)
        places = starts[:, None] + nth
        values = self.values[places].float() * scales * (nth < counts[:, None])
        empty = torch.zeros(features.shape[0], self.dims, device=features.device)
        return empty.scatter_add(1, self.positions[places].long(), values)


class _Scorer(nn.Module):
    """Table rows (B, C) and what multiplies them (B, C), as `RawMapping.encode` gives them → scores (B,)."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.model, self.is_click = predictor.model, predictor.task == "ctr"
        self.packed = predictor.embedding.table
        columns = [one.columns for one in predictor.embedding.fields]
        several = any(one.kind == "multi" for one in predictor.embedding.fields)
        self.offsets = torch.tensor([0, *np.cumsum(columns)]) if several else None

    def forward(self, ids: Tensor, values: Tensor | None = None) -> Tensor:
        logits = self.model(Batch(ids, torch.zeros(ids.shape[0]), values, self.offsets)).logits
        return logits.sigmoid() if self.is_click else logits


def write_onnx(folder: Path, predictor: Predictor, test: Batch | None = None) -> dict[str, Any]:
    """Write model.onnx; what tables.json has to say of it.

    Its inputs: ids (B, C) int64, rows of the table, and, where a field has several values or a number,
    values (B, C) float32, which multiply them. Its output: score (B,). Its scores of random rows, and of those of
    `test`, are compared with torch's.
    Raises RunError where the extra `onnx` is not installed, or scores are others.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # torch asks for it
    except ImportError as fault:
        raise RunError(f"--format onnx: {fault.name} is not installed; pip install 'dnis-lightning[onnx]'") from fault
    random = _random_rows(predictor, 1000)
    checks = {"random": random} | ({} if test is None else {"test": _inputs(test, random)})
    scorer = _Scorer(predictor).eval()
    with torch.inference_mode():
        wanted = {name: scorer(**rows).numpy() for name, rows in checks.items()}
    _export(scorer, {name: tensor[:3] for name, tensor in random.items()}, folder / FILE)
    try:
        session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
        scores = {name: session.run(None, {n: t.numpy() for n, t in rows.items()})[0] for name, rows in checks.items()}
    except Exception as fault:  # its errors have no class in common
        raise RunError(f"--format onnx: the graph does not run ({_first(fault)}); take --format packed") from fault
    for name, found in scores.items():
        if not np.allclose(found, wanted[name], rtol=CLOSE, atol=CLOSE):
            off = np.abs(found - wanted[name]).max()
            raise RunError(
                f"--format onnx: scores of {name} rows are off by {off:g}, so the graph is no use; take --format packed"
            )
    inputs = {name: f"{tensor.numpy().dtype} (B, {tensor.shape[1]})" for name, tensor in random.items()}
    checked = {name: len(rows["ids"]) for name, rows in checks.items()}
    return {"onnx": FILE, "inputs": inputs, "output": "score", "checked_rows": checked}


def _inputs(batch: Batch, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A batch as the graph takes it."""
    values = torch.ones(batch.ids.shape) if batch.values is None else batch.values
    return {name: {"ids": batch.ids, "values": values}[name] for name in like}


def _export(scorer: _Scorer, example: dict[str, Tensor], path: Path) -> None:
    rows, table, padded = torch.export.Dim("rows"), scorer.model.table, PaddedLookup(scorer.packed)
    try:
        scorer.model.table = cast(EmbeddingTable, padded)
        with _quietly(), torch.no_grad():
            program = torch.onnx.export(
                scorer,
                kwargs=example,
                dynamo=True,
                dynamic_shapes={name: {0: rows} for name in example},
                input_names=list(example),
                output_names=["score"],
                verbose=False,
            )
    except Exception as fault:  # whatever the forward of a user's model raises
        raise RunError(
            f"--format onnx: torch makes no graph of this model ({_first(fault)}); take --format packed"
        ) from fault
    finally:
        scorer.model.table = table
    assert program is not None, "asked for with dynamo"
    program.save(path)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch has to say while it exports."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _first(fault: Exception) -> str:
    """The first line of what an error says."""
    return (str(fault).splitlines() or [type(fault).__name__])[0]


def _random_rows(predictor: Predictor, count: int) -> dict[str, Tensor]:
    """Ids and, where there are any but ones, values (R, C) within the fields."""
    rng, fields = np.random.default_rng(0), predictor.embedding.fields
    ids = [rng.integers(one.first, one.end, (count, one.columns)) for one in fields]
    rows = {"ids": torch.from_numpy(np.concatenate(ids, axis=1))}
    if any(one.scaled for one in fields):
        values = [rng.random((count, one.columns)) if one.scaled else np.ones((count, 1)) for one in fields]
        rows["values"] = torch.from_numpy(np.concatenate(values, axis=1).astype(np.float32))
    return rows
