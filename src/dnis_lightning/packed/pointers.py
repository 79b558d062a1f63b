"""Where each of many short lists starts, in a byte or two each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_SHIFTS = range(0, 17, 2)


@dataclass(frozen=True, eq=False)
class Pointers:
    """Ascending whole numbers p_0 = 0 … p_n, between which n lists stand one after the other.

    p_i = base[i >> shift] + offset[i]. base: every 2^shift-th number, in four bytes or eight; offset (n + 1,): what is
    missing to each, in the smallest unsigned type that holds the largest.
    """

    base: np.ndarray
    offset: np.ndarray
    shift: int

    @classmethod
    def of(cls, numbers: np.ndarray) -> Pointers:
        """The numbers (n + 1,), int64, with the shift that takes the fewest bytes."""
        shift = min(_SHIFTS, key=lambda some: _bytes(numbers, some))
        base = numbers[:: 1 << shift]
        offset = numbers - np.repeat(base, 1 << shift)[: len(numbers)]
        return cls(base.astype(_base_type(numbers)), offset.astype(np.min_scalar_type(offset.max())), shift)

    @classmethod
    def read(cls, tensors: Mapping[str, np.ndarray], name: str, count: int) -> Pointers:
        """What `tensors` gave, of n = count lists. Raises KeyError or ValueError where it is not there."""
        base, offset = tensors[f"{name}.base"], tensors[f"{name}.offset"]
        fitting = [shift for shift in _SHIFTS if len(base) == _pieces(count + 1, shift)]
        if offset.shape != (count + 1,) or not fitting or {base.dtype.kind, offset.dtype.kind} != {"u"}:
            raise ValueError(f"{name}: for other lists")
        return cls(base, offset, fitting[-1])

    def tensors(self, name: str) -> dict[str, np.ndarray]:
        """The arrays by name."""
        return {f"{name}.base": self.base, f"{name}.offset": self.offset}

    def at(self, places: np.ndarray) -> np.ndarray:
        """p_i (…) of places i (…), int64."""
        return self.base[places >> self.shift].astype(np.int64) + self.offset[places]

    def spans(self, lists: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where lists (…) start, and how many numbers they have; int64."""
        starts = self.at(lists)
        return starts, self.at(lists + 1) - starts

    def every(self) -> np.ndarray:
        """p_0 … p_n, (n + 1,) int64."""
        return self.at(np.arange(len(self.offset)))


def flat_places(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(Σ counts,) int64: starts_0, starts_0 + 1, …, counts_0 of them; then those of the next list, and so on."""
    ends = counts.cumsum()
    return np.repeat(starts - ends + counts, counts) + np.arange(ends[-1] if len(ends) else 0)


def _bytes(numbers: np.ndarray, shift: int) -> int:
    last = np.append(np.arange((1 << shift) - 1, len(numbers) - 1, 1 << shift), len(numbers) - 1)
    base = numbers[:: 1 << shift]
    largest = (numbers[last[: len(base)]] - base).max()
    return len(base) * _base_type(numbers).itemsize + len(numbers) * np.min_scalar_type(largest).itemsize


def _base_type(numbers: np.ndarray) -> np.dtype:
    return np.dtype(np.uint32 if numbers[-1] < 2**32 else np.uint64)


def _pieces(count: int, shift: int) -> int:
    return -(-count // (1 << shift))
