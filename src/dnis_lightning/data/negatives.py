"""Items that a user has not had, drawn anew for every row of every pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from dnis_lightning.batch import Batch
from dnis_lightning.data.interactions import Histories, Interactions

_LARGEST_WEIGHT = 1 << 20


class Negatives:
    """Draws items that are not in a user's history, each with a probability in proportion to its weight.

    There is no trial and error: an item is looked up at a random place of what is left of all weights when those of the
    history are taken out. Weights are rounded to whole numbers, and these are drawn by exactly.

    history: what is never drawn. frequency (M,): of each item in train. power: of the frequency in the weight; 0 = all
    items are equally likely, 1 = by popularity.
    """

    def __init__(self, history: Histories, frequency: np.ndarray, power: float = 0.0) -> None:
        items, starts = history.items, history.starts
        weights = _weights(frequency, power, users=len(starts) - 1)
        self._ends, self._total = np.cumsum(weights), int(weights.sum())
        taken = np.append(0, np.cumsum(weights[items]))  # of all histories, one after the other
        before = taken[:-1] - np.repeat(taken[starts[:-1]], history.counts())  # within a user's own
        self._starts, self._taken = starts, before + weights[items]
        self._left = self._total - np.diff(taken[starts])
        # what is left of the weights in front of each item of a history, in one ascending list for all users
        free = self._ends[items] - weights[items] - before
        self._keys = np.repeat(self._first_key(np.arange(len(starts) - 1)), history.counts()) + free

    def draw(self, users: np.ndarray, chance: np.ndarray) -> np.ndarray:
        """(B, n) places of items for users (B,), from n numbers in [0, 1) for each of them, chance (B, n).

        A user who has had all items is given any.
        """
        left, first = self._left[users][:, None], self._starts[users][:, None]
        place = (chance * np.where(left > 0, left, self._total)).astype(np.int64)
        passed = _places(self._keys, self._first_key(users)[:, None] + place) - first
        skipped = np.where((passed > 0) & (left > 0), self._taken[first + passed - 1], 0) if len(self._taken) else 0
        return np.searchsorted(self._ends, place + skipped, "right")

    def _first_key(self, users: np.ndarray) -> np.ndarray:
        return users.astype(np.int64) * (self._total + 1)


def _places(ascending: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """How many of the first are at most as large as each of some keys; in their order, each is near the one before."""
    order = np.argsort(keys, axis=None)
    places = np.empty(keys.size, dtype=np.int64)
    places[order] = np.searchsorted(ascending, keys.ravel()[order], "right")
    return places.reshape(keys.shape)


def _weights(frequency: np.ndarray, power: float, users: int) -> np.ndarray:
    """Whole numbers, at least 1, in proportion to a power of the frequencies; users times their sum is an int64."""
    largest = min(_LARGEST_WEIGHT, (1 << 62) // max(users * len(frequency), 1)) if power else 1
    relative = (np.maximum(frequency, 1) / max(frequency.max(initial=1), 1)) ** power
    return np.maximum(np.rint(relative * largest), 1).astype(np.int64)


@dataclass(frozen=True, eq=False)
class WithNegatives:
    """Makes of each row of a batch 1 + count rows: itself, with label 1, and as many negatives, with label 0."""

    negatives: Negatives
    count: int
    item_column: int
    first_item_row: int

    def added(self, batch: Batch, chance: np.ndarray) -> Batch:
        """The batch of B (1 + count) rows, each row's negatives behind it; chance (B, count): numbers in [0, 1).

        The batch says who its users are.
        """
        assert batch.user is not None, "rows of interactions have a user"
        drawn = self.negatives.draw(batch.user.numpy(), chance) + self.first_item_row
        ids = np.repeat(batch.ids.numpy()[:, None], 1 + self.count, axis=1)
        ids[:, 1:, self.item_column] = drawn
        label = np.zeros(ids.shape[:2], dtype=np.float32)
        label[:, 0] = 1
        return replace(
            batch,
            ids=torch.from_numpy(ids.reshape(-1, ids.shape[-1])),
            label=torch.from_numpy(label.reshape(-1)),
            total=batch.global_size * (1 + self.count),
            user=None,
        )


@dataclass(frozen=True, eq=False)
class Feedback:
    """Interactions, and how many negatives a row is given; power: see `Negatives`."""

    interactions: Interactions
    count: int
    power: float = 0.0
    _made: dict[tuple[str, ...], WithNegatives] = field(default_factory=dict, repr=False)

    def negatives(self, parts: Iterable[str]) -> WithNegatives:
        """For rows of some parts: never an item that the user had in one of them, or in train; worked out once."""
        known, key = self.interactions, tuple(sorted({"train", *parts}))
        if key not in self._made:
            drawn = Negatives(known.known(key), known.frequency, self.power)
            self._made[key] = WithNegatives(drawn, self.count, known.item_column, known.first_item_row)
        return self._made[key]
