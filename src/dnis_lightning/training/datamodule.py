"""The splits of a data set as loaders, for one process or for one rank of many."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import CombinedLoader

from dnis_lightning.batch import Batch
from dnis_lightning.data.loader import Loader
from dnis_lightning.data.prepare import Prepared
from dnis_lightning.search.trial import Rows


class SplitsDataModule(L.LightningDataModule):
    """Streams one phase's rows: `train` batches for the weights and, if `paired`, `search` batches for the gates.

    Training batches are dicts {"train": Batch} or {"train": Batch, "search": Batch}; validation is the select split.
    batch_size: rows of the global batch. shortest: an epoch ends with the shorter loader (default: with the longer,
    while the shorter starts over).
    """

    def __init__(
        self,
        prepared: Prepared,
        *,
        batch_size: int,
        seed: int,
        rows: Rows = "train",
        paired: bool = False,
        shortest: bool = False,
    ) -> None:
        super().__init__()
        self.prepared, self.batch_size, self.seed = prepared, batch_size, seed
        self.rows, self.paired, self.shortest = rows, paired, shortest

    def train_dataloader(self) -> CombinedLoader:
        """Shuffled batches, a new order each pass."""
        loaders = {"train": self._loader(self.weight_rows(), shuffle=True, seed=self.seed)}
        if self.paired:
            loaders["search"] = self._loader(self.prepared.split.search, shuffle=True, seed=self.seed + 1)
        return CombinedLoader(loaders, "min_size" if self.shortest else "max_size_cycle")

    def weight_rows(self) -> np.ndarray:
        """(R,) the rows that train the weights, sorted; those of search only if they are not those of select, too."""
        split = self.prepared.split
        return split.train if self.rows == "train" or split.shared else np.union1d(split.train, split.search)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch of training."""
        lengths = [len(loader) for loader in self.train_dataloader().flattened]
        return max(min(lengths) if self.shortest else max(lengths), 1)

    def val_dataloader(self) -> Loader:
        """The select split in order."""
        return self._loader(self.prepared.split.select, shuffle=False)

    def test_dataloader(self) -> Loader:
        """The test split in order."""
        return self._loader(self.prepared.split.test, shuffle=False)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Page-locks batches on their way to a GPU, so that the copy can overlap with work."""
        if self.trainer is None or self.trainer.strategy.root_device.type != "cuda":
            return batch
        return (
            {name: part.pin_memory() for name, part in batch.items()} if isinstance(batch, dict) else batch.pin_memory()
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Copies without waiting."""
        if isinstance(batch, Batch):
            return batch.to(device, non_blocking=True)
        return {name: part.to(device, non_blocking=True) for name, part in batch.items()}

    def _loader(self, rows: np.ndarray, *, shuffle: bool, seed: int = 0) -> Loader:
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        return Loader(
            self.prepared.dataset,
            self.prepared.vocabulary,
            rows,
            batch_size=self.batch_size,
            shuffle=shuffle,
            seed=seed,
            rank=rank,
            world=world,
        )
