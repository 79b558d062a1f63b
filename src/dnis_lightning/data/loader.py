"""Batches straight from the records on disk, at an exact position, for one rank of many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dnis_lightning.batch import Batch
from dnis_lightning.data.negatives import WithNegatives
from dnis_lightning.data.rows import RowFile
from dnis_lightning.errors import RunError
from dnis_lightning.lookup import find_distinct

BUFFER_BYTES = 1 << 27
_STRETCH_ROWS = 1 << 15


class Loader:
    """An iterable of batches over the rows of some files; each iteration is a pass, in an order of its own if shuffled.

    The files are read in stretches of 2^15 rows, in their order, or in a random one; as many stretches as fit into
    `buffer` bytes are shuffled together. Rows that fit all at once are read once, and their order is any of all.
    batch_size: rows of the *global* batch, of which rank r of `world` takes the rows r, r + world, … (none, if the last
    batch is that small). seed and the number of the pass give the order. distinct: whether batches come with
    their distinct features. negatives: what is added to each batch; seed, pass and number of the batch draw it.
    """

    def __init__(
        self,
        files: Sequence[RowFile],
        *,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        buffer: int = BUFFER_BYTES,
        distinct: bool = False,
        negatives: WithNegatives | None = None,
    ) -> None:
        self.files = tuple(files)
        self.rows = sum(file.rows for file in files)
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.rank, self.world = rank, world
        self._layout = files[0].layout
        self._at_once = max(buffer // self._layout.dtype.itemsize, _STRETCH_ROWS)
        self._held: np.ndarray | None = None
        self._distinct, self._negatives = distinct, negatives
        self._pass, self._position, self._restored = 0, 0, False

    def __len__(self) -> int:
        """Global batches in a pass, the same on every rank."""
        return -(-self.rows // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the next pass, or what is left of the pass that `load_state_dict` restored."""
        if not self._restored and self._position:
            self._pass, self._position = self._pass + 1, 0  # the last iteration was left before its end
        self._restored = False
        for records, total in self._batches(self._position):
            batch = self._with_negatives(self._layout.batch(records, total))
            self._position += 1
            yield find_distinct(batch) if self._distinct else batch
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
        return {"rows": self.rows, "batch_size": self.batch_size, "shuffle": self.shuffle, "seed": self.seed}

    def _batches(self, first: int) -> Iterator[tuple[np.ndarray, int]]:
        """This rank's records of the global batches of this pass, from the batch number `first` on, and their sizes."""
        skip, rest = first * self.batch_size, self._empty(0)
        for number, window in enumerate(self._windows()):
            size = sum(stop - start for _, start, stop in window)
            if skip >= size:
                skip -= size
                continue
            raw = self._read(window)
            if self.shuffle:
                order = np.random.default_rng([self.seed, self._pass, number]).permutation(size)[skip:]
            else:
                order = np.arange(skip, size)
            skip = 0
            if len(rest):
                fill = self.batch_size - len(rest)
                rest = np.concatenate([rest, raw.take(order[:fill], axis=0)])
                if len(rest) < self.batch_size:
                    del raw  # or there would be two windows at a time
                    continue
                yield self._mine(rest)
                order = order[fill:]
            whole = len(order) - len(order) % self.batch_size
            for start in range(0, whole, self.batch_size):
                mine = order[start + self.rank : start + self.batch_size : self.world]
                yield self._records(raw.take(mine, axis=0)), self.batch_size
            rest = raw.take(order[whole:], axis=0)
            del raw
        if len(rest):
            yield self._mine(rest)

    def _with_negatives(self, batch: Batch) -> Batch:
        """The present batch with what is added to it: the same whatever the number of ranks."""
        if self._negatives is None:
            return batch
        rng = np.random.default_rng([self.seed, self._pass, self._position, self._negatives.count])
        chance = rng.random((batch.global_size, self._negatives.count))
        return self._negatives.added(batch, chance[self.rank :: self.world])

    def _windows(self) -> Iterator[list[tuple[RowFile, int, int]]]:
        """What is shuffled together: stretches of the files, as many as fit into the buffer."""
        stretches = [
            (file, start, min(start + _STRETCH_ROWS, file.rows))
            for file in self.files
            for start in range(0, file.rows, _STRETCH_ROWS)
        ]
        if self.shuffle and self.rows > self._at_once:
            order = np.random.default_rng([self.seed, self._pass]).permutation(len(stretches))
            stretches = [stretches[place] for place in order]
        window: list[tuple[RowFile, int, int]] = []
        size = 0
        for stretch in stretches:
            rows = stretch[2] - stretch[1]
            if window and size + rows > self._at_once:
                yield window
                window, size = [], 0
            window.append(stretch)
            size += rows
        if window:
            yield window

    def _read(self, window: list[tuple[RowFile, int, int]]) -> np.ndarray:
        """The records of a window as bytes, (R, bytes of a record); kept, if they are all there are."""
        if self._held is not None:
            return self._held
        raw, at = self._empty(sum(stop - start for _, start, stop in window)), 0
        for file, start, stop in window:
            file.read(start, stop, raw[at : at + stop - start])
            at += stop - start
        if len(raw) == self.rows:
            self._held = raw
        return raw

    def _empty(self, rows: int) -> np.ndarray:
        return np.empty((rows, self._layout.dtype.itemsize), dtype=np.uint8)

    def _mine(self, rows: np.ndarray) -> tuple[np.ndarray, int]:
        return self._records(rows[self.rank :: self.world]), len(rows)

    def _records(self, raw: np.ndarray) -> np.ndarray:
        return raw.reshape(-1).view(self._layout.dtype)
