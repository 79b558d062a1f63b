"""Batches straight from the memory-mapped arrays, at an exact position, for one rank of many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dnis_lightning.batch import Batch
from dnis_lightning.data.store import EncodedDataset
from dnis_lightning.data.vocabulary import TrainVocabulary
from dnis_lightning.errors import RunError


class Loader:
    """An iterable of batches over some rows; each iteration is a pass, in an order of its own if shuffled.

    rows (R,): row numbers of the data set. batch_size: rows of the *global* batch, of which rank r of `world` takes the
    rows r, r + world, … (none, if the last batch is that small). seed and the number of the pass give the order.
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
        self._pass, self._position, self._restored = 0, 0, False
        # plain views: indexing a memmap object costs more than indexing its array
        self._codes, self._label = np.asarray(dataset.codes), np.asarray(dataset.label)
        self._values = None if dataset.values is None else np.asarray(dataset.values)

    def __len__(self) -> int:
        """Global batches in a pass, the same on every rank."""
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the next pass, or what is left of the pass that `load_state_dict` restored."""
        if not self._restored and self._position:
            self._pass, self._position = self._pass + 1, 0  # the last iteration was left before its end
        self._restored = False
        order = self._order()
        for number in range(self._position, len(self)):
            batch = self._batch(order, number)
            self._position = number + 1
            yield batch
        self._pass, self._position = self._pass + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: its pass and how many of its batches were handed out."""
        return {"pass": self._pass, "position": self._position, **self._settings()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration go on from there. Raises RunError if that was a loader of other rows or batches."""
        other = {key: state[key] for key, value in self._settings().items() if state[key] != value}
        if other:
            now = {key: self._settings()[key] for key in other}
            raise RunError(f"the checkpoint's loader had {other}, this has {now}; resume with the same configuration")
        self._pass, self._position, self._restored = state["pass"], state["position"], True

    def _settings(self) -> dict[str, Any]:
        return {"rows": len(self.rows), "batch_size": self.batch_size, "shuffle": self.shuffle, "seed": self.seed}

    def _order(self) -> np.ndarray:
        """(R,) the rows in the order of this pass."""
        if not self.shuffle:
            return self.rows
        rng = np.random.default_rng([self.seed, self._pass])
        return rng.permutation(self.rows)

    def _batch(self, order: np.ndarray, number: int) -> Batch:
        rows = order[number * self.batch_size : (number + 1) * self.batch_size]
        mine = rows[self.rank :: self.world]
        values = None if self._values is None else self._values[mine]
        ids, scale = self.vocabulary.encode(self._codes[mine], values)
        return Batch(
            torch.from_numpy(ids),
            torch.from_numpy(self._label[mine]),
            None if scale is None else torch.from_numpy(scale),
            total=len(rows),
        )
