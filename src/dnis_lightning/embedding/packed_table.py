"""A packed table as a module: rows on any device, and gradients for the entries that it keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dnis_lightning.errors import RunError
from dnis_lightning.lookup import Gather
from dnis_lightning.packed.layouts import Bitmap, Blocks, Csr, Dense, Prefix
from dnis_lightning.packed.loops import Loop, loop_of
from dnis_lightning.packed.table import PackedTable
from dnis_lightning.packed.tensors import DAMAGE
from dnis_lightning.packed.values import Values

_MASKS = {torch.uint8: 0xFF, torch.int16: 0xFFFF, torch.int32: 0xFFFFFFFF}


class PackedLookup(nn.Module):
    """Rows (…, K) of features (…), as `PackedTable.rows` gives them.

    What is not stored is 0 and stays so; what is stored gets a gradient, unless it is int8: in the layouts dense and
    prefix zeros are, too. Without gradients, rows on the CPU are made by the compiled loops, where Numba is installed.
    `state_dict` has the values, not which entries they are of: `packed().save(path)` writes both.
    """

    values: nn.Parameter
    scales: Tensor | None

    def __init__(self, table: PackedTable) -> None:
        super().__init__()
        self._table = table
        self._loop: tuple[int, Loop | None] | None = None
        values = _tensor(table.values.stored, bf16=table.values.dtype == "bf16")
        self._kind = values.dtype
        self.values = nn.Parameter(values, requires_grad=values.is_floating_point())
        scales = table.values.scales
        self.register_buffer("scales", None if scales is None else _tensor(scales, bf16=True))
        for name, array in table.layout.tensors().items():
            self.register_buffer(_attribute(name), _tensor(array), persistent=False)
        if isinstance(table.layout, Blocks):
            self.register_buffer("widths", _tensor(table.layout.widths), persistent=False)
        made = table.projections
        matrices = {} if made is None else made.matrices
        self.projections = nn.ParameterDict({str(l): nn.Parameter(_tensor(array)) for l, array in matrices.items()})
        self.register_buffer("projected_first", None if made is None else _tensor(made.first), persistent=False)
        self.register_buffer("projected_block", None if made is None else _tensor(made.block), persistent=False)

    @classmethod
    def load(cls, path: Path | str) -> PackedLookup:
        """Of a file that `PackedTable.save` wrote. Raises RunError where it is absent, damaged or something else."""
        try:
            return cls(PackedTable.load(path))
        except DAMAGE as fault:
            raise RunError(f"{path}: not a packed table that can be read ({fault})") from fault

    @property
    def dims(self) -> int:
        """K, or 2K of a model with two tables."""
        return self._table.dims

    def forward(self, input: Tensor, gather: Gather | None = None) -> Tensor:
        """Rows (…, K) float32 of features (…), which have the name that nn.Embedding has for them.

        gather: only for tables that are trained from the start. Raises IndexError for a feature that is not there.
        """
        if torch.jit.is_tracing():
            raise RuntimeError("a packed table has no trace: how much it reads depends on the features; export to ONNX")
        flat = input.reshape(-1).long()
        if len(flat) and not (int(flat.min()) >= 0 and int(flat.max()) < self._table.features):
            there = f"the table has 0 … {self._table.features - 1}"
            raise IndexError(f"features {int(flat.min())} … {int(flat.max())}: {there}")
        if not self.dims:
            return torch.zeros(*input.shape, 0, dtype=torch.float32, device=input.device)
        loop = self._compiled()
        if loop is None:
            rows = self._unprojected(flat)
        else:
            made = np.empty((len(flat), self.dims), dtype=np.float32)  # in large pages of memory, which torch's is not
            loop(flat.numpy(), made)
            rows = torch.from_numpy(made)
        if self.projections:
            rows = self._widened(rows, flat)
        return rows.view(*input.shape, self.dims)

    def packed(self) -> PackedTable:
        """The table with the values and projections that the module has by now."""
        made, values = self._table.projections, self._own_values()
        if made is not None:
            made = replace(made, matrices={int(l): one.detach().cpu().numpy() for l, one in self.projections.items()})
        return replace(self._table, values=values, projections=made)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loop": None}

    def _compiled(self) -> Loop | None:
        own = self.values.device.type == "cpu" and self.values.dtype == self._kind
        own = own and (self.scales is None or self.scales.dtype == torch.bfloat16)
        if not own or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return None
        at = self.values.data_ptr()
        if self._loop is None or self._loop[0] != at:
            self._loop = at, loop_of(self._table.layout, self._own_values())
        return self._loop[1]

    def _own_values(self) -> Values:
        """The values as they are stored, in the module's memory if that is on the CPU."""
        own, stored = self.values.detach().cpu().to(self._kind), self._table.values.stored
        bits = own.view(torch.int16).numpy() if own.dtype == torch.bfloat16 else own.numpy()
        scales = None if self.scales is None else self.scales.detach().cpu().bfloat16().view(torch.int16).numpy()
        codes = None if scales is None else scales.view(np.uint16)
        return replace(self._table.values, stored=bits.view(stored.dtype), scales=codes)

    def _unprojected(self, features: Tensor) -> Tensor:
        """Rows (n, K): each is the sum of unit vectors, one for each entry, times the values."""
        starts, counts = self._spans(features)
        values, ends = self.values, counts.cumsum(0)
        if isinstance(self._table.layout, Dense):
            rows = functional.embedding(features, values.view(-1, self.dims)).float()
            return rows if self.scales is None else rows * self.scales[features, None]
        total = int(ends[-1]) if len(ends) else 0
        offsets = ends - counts
        places = torch.repeat_interleave(starts - offsets, counts, output_size=total)
        places += torch.arange(total, device=places.device)
        found = values.index_select(0, places).float()
        if self.scales is not None:
            found = found * torch.repeat_interleave(self.scales[features].float(), counts, output_size=total)
        unit = torch.eye(self.dims, dtype=found.dtype, device=found.device)
        return functional.embedding_bag(
            self._columns(features, places), unit, offsets, mode="sum", per_sample_weights=found
        )

    def _spans(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Where the values of features (n,) start, and how many each has, (n,) int64 each."""
        layout = self._table.layout
        if isinstance(layout, Dense):
            return features * self.dims, torch.full_like(features, self.dims)
        if isinstance(layout, Blocks):
            run = self._runs(features)
            counts = self._at("widths", self._at("blocks_pattern", run))
            return self._at("blocks_start", run) + (features - self._at("blocks_first", run)) * counts, counts
        starts = self._pointer(features)
        return starts, self._pointer(features + 1) - starts

    def _columns(self, features: Tensor, places: Tensor) -> Tensor:
        """The dimension of each entry of features (n,), whose values stand at these places."""
        layout = self._table.layout
        if isinstance(layout, Csr):
            return self._at("positions", places)
        if isinstance(layout, Prefix):
            starts, counts = self._spans(features)
            return places - torch.repeat_interleave(starts, counts, output_size=len(places))
        if isinstance(layout, Blocks):
            bits = self._buffer("blocks_patterns")[self._at("blocks_pattern", self._runs(features))]
        else:
            bits = self._buffer("bits")[features]
        each = bits[..., None] >> torch.arange(8, dtype=torch.uint8, device=bits.device) & 1
        return each.flatten(1)[:, : self.dims].nonzero()[:, 1]

    def _runs(self, features: Tensor) -> Tensor:
        return torch.searchsorted(self._every("blocks_first"), features, right=True) - 1

    def _pointer(self, lists: Tensor) -> Tensor:
        """Where the values of each of some features start, and those of the last one end."""
        layout = self._table.layout
        assert isinstance(layout, Csr | Bitmap | Prefix), "the others have no pointers"
        return self._at("starts_base", lists >> layout.starts.shift) + self._at("starts_offset", lists)

    def _widened(self, rows: Tensor, features: Tensor) -> Tensor:
        """Rows of blocks with a projection (d, K) times that."""
        run = torch.searchsorted(self._every("projected_first"), features, right=True) - 1
        block, wide = self._at("projected_block", run), rows
        for number, matrix in self.projections.items():
            mine = (block == int(number) + 1).nonzero().squeeze(1)
            wide = wide.index_copy(0, mine, widened(rows[mine], matrix))
        return wide

    def _buffer(self, name: str) -> Tensor:
        found = getattr(self, name)
        assert isinstance(found, Tensor), "set by the constructor"
        return found

    def _at(self, name: str, places: Tensor) -> Tensor:
        """Whole numbers of a buffer at some places, int64, however they are stored."""
        return _unsigned(self._buffer(name)[places])

    def _every(self, name: str) -> Tensor:
        return _unsigned(self._buffer(name))


def widened(rows: Tensor, matrix: Tensor) -> Tensor:
    """Rows (n, C · K) of C tables side by side, of which each has d entries that are not 0, times (C · d, K)."""
    copies = rows.shape[1] // matrix.shape[1]
    narrow = rows.unflatten(1, (copies, matrix.shape[1]))[..., : len(matrix) // copies]
    of_each = matrix.to(rows.dtype).unflatten(0, (copies, len(matrix) // copies))
    return torch.einsum("ncd,cdk->nck", narrow, of_each).flatten(1).to(rows.dtype)  # autocast may have made less of it


def _attribute(name: str) -> str:
    return name.replace(".", "_")


def _tensor(array: np.ndarray, *, bf16: bool = False) -> Tensor:
    """A copy of an array; torch does little with wide unsigned numbers, so their bits are those of signed ones."""
    kind = array.dtype
    own = np.array(array.view(f"i{kind.itemsize}") if kind.kind == "u" and kind.itemsize > 1 else array)
    return torch.from_numpy(own).view(torch.bfloat16) if bf16 else torch.from_numpy(own)


def _unsigned(numbers: Tensor) -> Tensor:
    """The whole numbers of which `_tensor` has the bits, int64."""
    mask = _MASKS.get(numbers.dtype)
    return numbers.long() if mask is None else numbers.long() & mask
