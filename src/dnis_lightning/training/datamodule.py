"""The splits of a data set as loaders, for one process or for one rank of many."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import CombinedLoader

from dnis_lightning.batch import Batch
from dnis_lightning.data.candidates import Candidates
from dnis_lightning.data.loader import Loader
from dnis_lightning.data.negatives import Feedback
from dnis_lightning.data.prepare import Prepared
from dnis_lightning.data.queries import Queries
from dnis_lightning.ranking import Query
from dnis_lightning.search.trial import Rows


class SplitsDataModule(L.LightningDataModule):
    """Streams one phase's rows: `train` batches for the weights and, if `paired`, `search` batches for the gates.

    Training batches are dicts {"train": Batch} or {"train": Batch, "search": Batch}; validation is the select split.
    All come with their distinct features. batch_size: rows of the global batch. feedback: where rows are interactions:
    training batches have negatives, and validation and test are queries. shortest: an epoch ends with the
    shorter loader (default: with the longer, while the shorter starts over).
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
        feedback: Feedback | None = None,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer users than ranks
        self.prepared, self.batch_size, self.seed = prepared, batch_size, seed
        self.rows, self.paired, self.shortest, self.feedback = rows, paired, shortest, feedback

    def train_dataloader(self) -> CombinedLoader:
        """Shuffled batches, a new order each pass."""
        loaders = {"train": self._loader(*self.weight_parts(), shuffle=True, seed=self.seed)}
        if self.paired:
            loaders["search"] = self._loader("search", shuffle=True, seed=self.seed + 1)
        return CombinedLoader(loaders, "min_size" if self.shortest else "max_size_cycle")

    def weight_parts(self) -> tuple[str, ...]:
        """The parts that train the weights; search only if its rows are not those of select, too."""
        return ("train",) if self.rows == "train" else self.prepared.split.weight_parts

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch of training."""
        lengths = [len(loader) for loader in self.train_dataloader().flattened]
        return max(min(lengths) if self.shortest else max(lengths), 1)

    def val_dataloader(self) -> Loader | Queries:
        """The select split in order, or its users."""
        return self._loader("select", shuffle=False) if self.feedback is None else self._queries("select")

    def test_dataloader(self) -> Loader | Queries:
        """The test split in order, or its users."""
        return self._loader("test", shuffle=False) if self.feedback is None else self._queries("test")

    def candidates_dataloader(self) -> Queries | None:
        """The users of the test that was given, each with candidates of its own; None where none was given."""
        return None if self.prepared.candidates is None else self._queries("test", self.prepared.candidates)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Page-locks batches on their way to a GPU, so that the copy can overlap with work."""
        if self.trainer is None or self.trainer.strategy.root_device.type != "cuda":
            return batch
        return (
            {name: part.pin_memory() for name, part in batch.items()} if isinstance(batch, dict) else batch.pin_memory()
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Copies without waiting."""
        if isinstance(batch, Batch | Query):
            return batch.to(device, non_blocking=True)
        return {name: part.to(device, non_blocking=True) for name, part in batch.items()}

    def _loader(self, *parts: str, shuffle: bool, seed: int = 0) -> Loader:
        rank, world = self._rank()
        return Loader(
            [self.prepared.parts[part] for part in parts],
            batch_size=self.batch_size,
            shuffle=shuffle,
            seed=seed,
            rank=rank,
            world=world,
            distinct=True,
            negatives=None if self.feedback is None else self.feedback.negatives(parts),
        )

    def _queries(self, part: str, candidates: Candidates | None = None) -> Queries:
        assert self.feedback is not None, "queries are for interactions"
        rank, world = self._rank()
        return Queries(self.feedback.interactions, part, candidates=candidates, rank=rank, world=world)

    def _rank(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
