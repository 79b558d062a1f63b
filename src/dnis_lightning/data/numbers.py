"""What becomes of the numbers of a numeric field: one value that multiplies an embedding, or bins with one each.

scalar: sign(x)·log(1 + |x|) / 4, so that counts from 0 to millions become numbers of order one. raw: x itself.
standard: (x − mean) / standard deviation over the rows of train. log2: bins of a whole number each up to 2, then from
e^√k to e^√(k+1), k = 1, 2, …: those of ⌊log(x)²⌋, which is usual on Criteo; below zero the same, mirrored. quantile:
bins that hold as many of the numbers in train each. A bin with too few of them is joined to the one below it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from dnis_lightning.packed.numbers import Binned, Numbers, Scaled
from dnis_lightning.quantities import NumericForm

_SAMPLE = 1 << 20
_ABOVE_TWO = np.exp(np.sqrt(np.arange(1, 88**2)))
_LOG2_EDGES = np.concatenate([-_ABOVE_TWO[::-1], np.arange(-2, 3), [np.nextafter(2, 3)], _ABOVE_TWO])


def fit_numbers(
    form: NumericForm,
    train: Callable[[], Iterator[np.ndarray]],
    *,
    fields: int,
    rows: int,
    least: Sequence[int],
    bins: int = 32,
) -> tuple[list[Numbers], np.ndarray]:
    """What becomes of each of Fn numeric fields, and (Fn,) in how many rows of train there is a number.

    train: gives the numbers of train's `rows` rows, in pieces (R, Fn) float32, NaN = missing. least (Fn,): numbers of
    train in a bin. bins: of `quantile`, at most; by a sample of a million rows.
    """
    if form in ("log2", "quantile"):
        edges = [_LOG2_EDGES] * fields if form == "log2" else _quantiles(train(), fields, rows, bins)
        counts = _counts(train(), edges)
        binned = [_joined(Binned(e), c, few) for e, c, few in zip(edges, counts, least, strict=True)]
        return list(binned), np.array([one.counts.sum() for one in binned], dtype=np.int64)
    if form == "standard":
        present, mean, deviation = _moments(train(), fields)
        return [Scaled(False, m, d) for m, d in zip(mean.tolist(), deviation.tolist(), strict=True)], present
    present = sum((np.count_nonzero(~np.isnan(piece), axis=0) for piece in train()), np.zeros(fields, dtype=np.int64))
    return [Scaled(True, 0.0, 4.0) if form == "scalar" else Scaled()] * fields, present


def _moments(train: Iterator[np.ndarray], fields: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(Fn,) each: how many numbers, their mean, their standard deviation (1 where all are alike)."""
    count, mean, squares = np.zeros(fields, dtype=np.int64), np.zeros(fields), np.zeros(fields)
    for piece in train:
        there = ~np.isnan(piece)
        more = there.sum(0)
        some = np.maximum(more, 1)
        x = np.where(there, piece, 0).astype(np.float64)
        average = x.sum(0) / some
        spread = np.where(there, (x - average) ** 2, 0).sum(0)
        total, gap = np.maximum(count + more, 1), average - mean
        squares += np.where(more, spread + gap**2 * count * more / total, 0)
        mean += np.where(more, gap * more / total, 0)
        count += more
    deviation = np.sqrt(squares / np.maximum(count, 1))
    return count, mean, np.where(deviation > 0, deviation, 1.0)


def _quantiles(train: Iterator[np.ndarray], fields: int, rows: int, bins: int) -> list[np.ndarray]:
    rng, share = np.random.default_rng(0), min(1.0, _SAMPLE / max(rows, 1))
    sample = np.concatenate(
        [np.empty((0, fields), np.float32), *(piece[rng.random(len(piece)) < share] for piece in train)]
    )
    edges = []
    for column in sample.T:
        there = column[~np.isnan(column)]
        cuts = np.quantile(there, np.arange(1, bins) / bins, method="higher") if len(there) else np.empty(0)
        edges.append(np.unique(cuts).astype(np.float64))
    return edges


def _counts(train: Iterator[np.ndarray], edges: list[np.ndarray]) -> list[np.ndarray]:
    """For each field, how many numbers are in each bin."""
    totals = [np.zeros(len(e) + 1, dtype=np.int64) for e in edges]
    for piece in train:
        for column, e, total in zip(piece.T, edges, totals, strict=True):
            there = column[~np.isnan(column)]
            total += np.bincount(np.searchsorted(e, there, side="right"), minlength=len(total))
    return totals


def _joined(binned: Binned, counts: np.ndarray, least: int) -> Binned:
    """The same with each bin of fewer than `least` numbers joined to the one below it, the lowest to that above."""
    edges: list[float] = []
    kept = [0]
    for bin_, count in enumerate(counts.tolist()):
        if bin_ and kept[-1] >= least and count >= least:
            edges.append(float(binned.edges[bin_ - 1]))
            kept.append(count)
        else:
            kept[-1] += count
    return Binned(np.asarray(edges), np.asarray(kept, dtype=np.int64))
