"""Many short texts, and a number for each that follows from its bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_DIGITS = 18
_MASKS = np.array([(1 << 8 * count) - 1 for count in range(9)], dtype=np.uint64)
PADDING = 8
"""Bytes behind the last text, so that eight can be read from any place."""


def hashes(content: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(T,) uint64: a number of each text, by all of its bytes; equal texts have equal numbers.

    content: bytes (uint8), of which text t has sizes[t] from starts[t] on; with `PADDING` at the end.
    """
    words = np.ndarray((len(content) - PADDING + 1,), dtype="<u8", buffer=content, strides=(1,))
    mixed = sizes.astype(np.uint64) * _FACTOR
    live = np.flatnonzero(sizes)
    for done in range(0, int(sizes.max(initial=0)), 8):
        live = live[sizes[live] > done]
        word = words[starts[live] + done] & _MASKS[np.minimum(sizes[live] - done, 8)]
        together = (mixed[live] ^ word) * _FACTOR
        mixed[live] = together ^ (together >> np.uint64(29))
    return mixed


@dataclass(frozen=True, eq=False)
class Texts:
    """T texts in UTF-8: text t has the bytes content[starts[t] : starts[t] + sizes[t]]; `PADDING` follows the last."""

    content: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[str | bytes]) -> Texts:
        """Of Python's own."""
        encoded = [text.encode() if isinstance(text, str) else text for text in texts]
        sizes = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        return cls.joined(np.frombuffer(b"".join(encoded), dtype=np.uint8), sizes)

    @classmethod
    def joined(cls, content: np.ndarray, sizes: np.ndarray) -> Texts:
        """Of texts that stand one after the other."""
        padded = np.append(content, np.zeros(PADDING, dtype=np.uint8))
        return cls(padded, sizes.cumsum() - sizes, sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def decoded(self) -> list[str]:
        """As Python's own."""
        content, starts = self.content.tobytes(), self.starts.tolist()
        return [content[start : start + size].decode() for start, size in zip(starts, self.sizes.tolist(), strict=True)]

    @property
    def hashes(self) -> np.ndarray:
        """(T,) uint64, see `hashes`."""
        return hashes(self.content, self.starts, self.sizes)

    def take(self, places: np.ndarray) -> Texts:
        """Some of them, as a view."""
        return Texts(self.content, self.starts[places], self.sizes[places])

    def equal(self, others: Texts) -> np.ndarray:
        """(T,) bool: whether each is the same as that of the others at the same place."""
        same = self.sizes == others.sizes
        for done in range(0, int(self.sizes.max(initial=0)), 8):
            live = np.flatnonzero(same & (self.sizes > done))
            same[live] = self._words(live, done) == others._words(live, done)
        return same

    def _words(self, places: np.ndarray, done: int) -> np.ndarray:
        """The bytes of texts at some places, eight of them from `done` on, as one number each."""
        words = np.ndarray((len(self.content) - PADDING + 1,), dtype="<u8", buffer=self.content, strides=(1,))
        return words[self.starts[places] + done] & _MASKS[np.minimum(self.sizes[places] - done, 8)]

    def whole_numbers(self) -> tuple[np.ndarray, np.ndarray]:
        """(T,) bool: which are whole numbers as Python writes them, of 18 digits at most; (T,) int64: these."""
        negative = (self._bytes(np.arange(len(self)), 0) == ord("-")) & (self.sizes > 0)
        digits, numbers = self.sizes - negative, np.zeros(len(self), dtype=np.int64)
        first = self._bytes(np.arange(len(self)), negative.astype(np.int64))
        whole = (digits >= 1) & (digits <= _DIGITS) & ((first != ord("0")) | ((digits == 1) & ~negative))
        for nth in range(int(digits[whole].max(initial=0))):
            live = np.flatnonzero(whole & (digits > nth))
            found = self._bytes(live, negative[live] + nth).astype(np.int64) - ord("0")
            whole[live] = (found >= 0) & (found <= 9)
            numbers[live] = 10 * numbers[live] + found
        return whole, np.where(negative, -numbers, numbers)

    def _bytes(self, places: np.ndarray, nth: np.ndarray | int) -> np.ndarray:
        """The nth byte of texts at some places; any, where a text has fewer."""
        return self.content[self.starts[places] + nth]
