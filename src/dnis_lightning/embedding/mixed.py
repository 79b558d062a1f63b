"""Tables whose blocks of features have widths of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dnis_lightning.lookup import Gather, gather


class MixedTable(nn.Module):
    """N features in L blocks; block l is a table of its own, N_l × d_l, and gives rows of K dimensions.

    Narrow rows are widened by a learned projection (d_l, K) where `projected` (Mixed Dimension Embeddings, Ginart et
    al. 2019, section 3), else by zeros (the sparse vectors of the paper's section 2.2).

    block_of (N,): the block of each feature; block_dims (L,): d_l ≤ K; dims: K.
    copies: how many tables side by side, for models that ask for more than one; widths are then those of each.
    Projections start so that a widened entry has the same standard deviation as an entry of the table.
    """

    block_of: Tensor
    row_of: Tensor
    mask: Tensor | None

    def __init__(
        self,
        block_of: np.ndarray,
        block_dims: Sequence[int],
        dims: int,
        *,
        copies: int = 1,
        projected: bool = False,
        std: float = 0.01,
    ) -> None:
        super().__init__()
        self.block_dims, self.dims, self.copies = tuple(block_dims), dims, copies
        sizes = np.bincount(block_of, minlength=len(block_dims))
        self.blocks = nn.ParameterList(
            nn.Parameter(torch.randn(int(n), copies * d) * std) for n, d in zip(sizes, block_dims, strict=True)
        )
        narrow = [(l, d) for l, d in enumerate(block_dims) if projected and 0 < d < dims]
        self.projections = nn.ParameterDict(
            {str(l): nn.Parameter(torch.randn(copies, d, dims) * d**-0.5) for l, d in narrow}
        )
        row_of = np.empty(len(block_of), dtype=np.int64)
        for l in range(len(block_dims)):
            row_of[block_of == l] = np.arange(sizes[l])
        self.register_buffer("block_of", torch.as_tensor(block_of, dtype=torch.int64), persistent=False)
        self.register_buffer("row_of", torch.as_tensor(row_of), persistent=False)
        self.register_buffer("mask", None)

    def forward(self, features: Tensor, gather: Gather = gather) -> Tensor:
        """Rows (…, copies · K) of features (…); entries outside the mask are 0 and get no gradient."""
        flat = features.flatten()
        block_of = self.block_of[flat]
        order = block_of.argsort(stable=True)  # all rows of the first block, then of the second, …
        counts = block_of.bincount(minlength=len(self.block_dims)).tolist()
        pieces = [self._widened(l, own, gather) for l, own in enumerate(flat[order].split(counts))]
        rows = torch.cat(pieces).index_select(0, order.argsort())
        return rows.view(*features.shape, self.copies * self.dims)

    def parameters_by_feature(self) -> list[nn.Parameter]:
        """What is looked up by feature: the blocks."""
        return list(self.blocks)

    @torch.no_grad()
    def entries(self) -> Tensor:
        """(N, copies · K), a copy: what the table holds, zeros where a block has no dimension or the mask no entry."""
        padded = self.blocks[0].new_zeros(len(self.block_of), self.copies, self.dims)
        for l, block in enumerate(self.blocks):
            shape = (len(block), self.copies, self.block_dims[l])
            padded[self.block_of == l, :, : self.block_dims[l]] = block.view(shape)
        padded = padded.view(len(self.block_of), -1)
        return padded if self.mask is None else padded * self.mask

    def kept(self) -> Tensor:
        """(N, copies · K) bool: true where there is an entry."""
        widths = torch.tensor(self.block_dims, device=self.block_of.device)[self.block_of]
        leading = torch.arange(self.dims, device=widths.device) < widths[:, None]
        there = leading.repeat(1, self.copies)
        return there if self.mask is None else there & self.mask

    @torch.no_grad()
    def keep(self, table: Tensor, mask: Tensor | None) -> None:
        """Take the values of `table` (N, copies · K) and hold all entries outside `mask` at 0 from now on."""
        padded = (table if mask is None else table * mask).view(len(table), self.copies, self.dims)
        for l, block in enumerate(self.blocks):
            block.copy_(padded[self.block_of == l, :, : self.block_dims[l]].flatten(1))
        self.mask = mask

    @torch.no_grad()
    def fill_with_means(self, features: Sequence[int], bounds: Sequence[tuple[int, int]]) -> None:
        """Give each of the `features` the mean of the other rows of its field, in place.

        bounds: for each, the first and the end row of its field. Where there are projections, blocks have no dimensions
        in common, and the mean is of the field's rows in the same block. A row that has no others keeps what it has.
        """
        table = self.entries()
        for feature, (start, end) in zip(features, bounds, strict=True):
            others = torch.arange(start, end, device=table.device)
            others = others[others != feature]
            block = int(self.block_of[feature])
            if self.projections:
                others = others[self.block_of[others] == block]
            if len(others):
                mean = table[others].mean(0).view(self.copies, self.dims)[:, : self.block_dims[block]].flatten()
                self.blocks[block][self.row_of[feature]] = mean * self._kept_of(feature, block)

    def projection_arrays(self, mask: Tensor | None = None) -> dict[int, np.ndarray]:
        """The projections (copies · d_l, K) by block, on the CPU, whatever is kept."""
        return {int(l): matrix.detach().cpu().numpy().reshape(-1, self.dims) for l, matrix in self.projections.items()}

    @torch.no_grad()
    def load_projections(self, arrays: Mapping[int, np.ndarray]) -> None:
        """Take what `projection_arrays` gave."""
        for l, array in arrays.items():
            self.projections[str(l)].copy_(torch.from_numpy(array).view_as(self.projections[str(l)]))

    def _widened(self, block: int, features: Tensor, gather: Gather) -> Tensor:
        """Rows (n, copies, K) of n features of one block."""
        d = self.block_dims[block]
        rows = gather(self.blocks[block], self.row_of[features]).view(len(features), self.copies, d)
        if self.mask is not None:
            rows = rows * self.mask[features].view(len(features), self.copies, self.dims)[..., :d]
        if str(block) in self.projections:
            return torch.einsum("ncd,cdk->nck", rows, self.projections[str(block)])
        return functional.pad(rows, (0, self.dims - d))

    def _kept_of(self, feature: int, block: int) -> Tensor | int:
        if self.mask is None:
            return 1
        return self.mask[feature].view(self.copies, self.dims)[:, : self.block_dims[block]].flatten()
