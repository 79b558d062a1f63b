"""Batches sliced from memory-mapped arrays, with an exact position."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dnis_lightning.batch import Batch
from dnis_lightning.data.store import EncodedDataset
from dnis_lightning.data.vocabulary import TrainVocabulary


class Loader:
    """Iterates over rows of a data set, a global batch at a time; rank r of W takes rows r::W of each.

    Every `iter()` begins the next pass, shuffled by (seed, pass) or in order. The state taken after a batch, given to a
    new loader, makes its next `iter()` go on with the batch after it. Only the indices of a pass are held in memory.
    """

    def __init__(
        self,
        dataset: EncodedDataset,
        vocabulary: TrainVocabulary,
        rows: np.ndarray,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.dataset, self.vocabulary, self.rows = dataset, vocabulary, rows
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.rank, self.world = rank, world
        self._pass, self._position, self._resumed = -1, 0, False

    def __len__(self) -> int:
        """Global batches in a pass, the same on every rank."""
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        if self._resumed:
            self._resumed = False
        else:
            self._pass, self._position = self._pass + 1, 0
        return self._batches(self._order())

    def state_dict(self) -> dict[str, Any]:
        """The pass and how many of its batches were handed out."""
        return {"pass": self._pass, "position": self._position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there at the next `iter()`."""
        self._pass, self._position = state_dict["pass"], state_dict["position"]
        self._resumed = self._pass >= 0

    def _order(self) -> np.ndarray:
        if not self.shuffle:
            return self.rows
        return self.rows[np.random.default_rng([self.seed, self._pass]).permutation(len(self.rows))]

    def _batches(self, order: np.ndarray) -> Iterator[Batch]:
        while self._position < len(self):
            start = self._position * self.batch_size
            whole = order[start : start + self.batch_size]
            self._position += 1
            yield self._batch(whole[self.rank :: self.world], len(whole))

    def _batch(self, rows: np.ndarray, total: int) -> Batch:
        numbers = None if self.dataset.values is None else self.dataset.values[rows]
        ids, values = self.vocabulary.encode(self.dataset.codes[rows], numbers)
        return Batch(
            torch.from_numpy(ids),
            torch.from_numpy(self.dataset.label[rows]),
            None if values is None else torch.from_numpy(values),
            total=total,
        )
