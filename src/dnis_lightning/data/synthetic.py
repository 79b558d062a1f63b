"""Ratings or clicks made from embeddings whose useful dimensions are known, so that a search can be scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field as Bounds
from scipy.stats import spearmanr

from dnis_lightning.data.source import Chunk, Field
from dnis_lightning.quantities import Count, Finite, NonNegative, Positive, Seed, TaskName, Whole

if TYPE_CHECKING:
    from dnis_lightning.data.vocabulary import TrainVocabulary

READER = 1
_ROWS_AT_ONCE = 1 << 17


class Synthetic:
    """Rows of independent, Zipf-distributed features; label = mean + Σ_{f<g} ⟨v_f, v_g⟩ + noise, or a click.

    The features of all fields, most frequent first, are cut into as many blocks of equal count as `dims` has entries;
    a feature of block l has normal values (standard deviation `scale`) in its first dims[l] dimensions, else 0.
    zipf: the k-th feature of a field occurs in proportion to k^−zipf. noise: standard deviation, of ratings only.
    """

    def __init__(
        self,
        rows: Count = 200_000,
        field_count: Annotated[int, Bounds(ge=2)] = 2,
        features_per_field: Count = 1000,
        dims: Annotated[Sequence[Whole], Bounds(min_length=1)] = (8, 6, 4, 2, 1),
        zipf: NonNegative = 0.8,
        scale: Positive = 0.6,
        mean: Finite = 0.0,
        noise: NonNegative = 0.3,
        seed: Seed = 0,
        task: Literal["rating", "ctr"] = "rating",
    ) -> None:
        self.name = "synthetic"
        self.task: TaskName = task
        self.fields = tuple(Field(f"field{number}", "categorical") for number in range(field_count))
        self.user_field = self.fields[0].name
        self.rows, self.features_per_field, self.dims = rows, features_per_field, tuple(dims)
        self.zipf, self.scale, self.mean, self.noise, self.seed = zipf, scale, mean, noise, seed

    def identity(self) -> dict[str, Any]:
        """See `Source`: every option."""
        options = ("rows", "features_per_field", "zipf", "scale", "mean", "noise", "seed")
        return {"reader": READER, "dims": list(self.dims)} | {name: getattr(self, name) for name in options}

    def chunks(self) -> Iterator[Chunk]:
        """See `Source`; time is the row's number."""
        tables, share = self.tables(), self._popularity()
        for start in range(0, self.rows, _ROWS_AT_ONCE):
            rng = np.random.default_rng([self.seed, 1, start])
            rows = min(_ROWS_AT_ONCE, self.rows - start)
            ids = rng.choice(self.features_per_field, size=(rows, len(self.fields)), p=share)
            columns = {field.name: ids[:, number] for number, field in enumerate(self.fields)}
            label = self._labels(rng, pairwise_sum(tables, ids))
            yield Chunk(columns, label, np.arange(start, start + rows), (start + rows) / self.rows)

    def useful_dims(self) -> np.ndarray:
        """(F, features_per_field) how many dimensions of each feature are not 0, by field and raw id."""
        return np.asarray(self.dims, dtype=np.int64)[self._blocks()]

    def tables(self) -> np.ndarray:
        """(F, features_per_field, max dims) the true embeddings."""
        useful, width = self.useful_dims(), max(self.dims)
        rng = np.random.default_rng([self.seed, 0])
        normal = rng.normal(scale=self.scale, size=(*useful.shape, width))
        return np.where(np.arange(width) < useful[:, :, None], normal, 0.0)

    def truth(self, vocabulary: TrainVocabulary) -> np.ndarray:
        """(N,) the useful dimensions of each row of the embedding table; 0 for the out-of-vocabulary rows."""
        return np.append(self.dims, 0)[self.planted_blocks(vocabulary)]

    def planted_blocks(self, vocabulary: TrainVocabulary) -> np.ndarray:
        """(N,) the planted block of each row of the embedding table; −1 for the out-of-vocabulary rows."""
        blocks = self._blocks()
        numbers = {field.name: number for number, field in enumerate(self.fields)}
        pairs = zip(vocabulary.names(), vocabulary.is_out_of_vocabulary, strict=True)
        rows = [-1 if unseen else blocks[numbers[field], int(raw)] for (field, raw), unseen in pairs]
        return np.asarray(rows, dtype=np.int64)

    def score(self, vocabulary: TrainVocabulary, kept: np.ndarray) -> Recovery:
        """How near kept dims (N,) come to the planted ones; the out-of-vocabulary rows are left out."""
        block_of = self.planted_blocks(vocabulary)
        planted = block_of >= 0
        return recovery(self.truth(vocabulary)[planted], kept[planted], block_of[planted])

    def _blocks(self) -> np.ndarray:
        """(F, features_per_field) the block of each feature, 0 = the most frequent."""
        fields, features = len(self.fields), self.features_per_field
        rank = np.arange(features)[None, :] * fields + np.arange(fields)[:, None]  # ties in field order
        return rank * len(self.dims) // (fields * features)

    def _popularity(self) -> np.ndarray:
        weight = np.arange(1, self.features_per_field + 1) ** -float(self.zipf)
        return weight / weight.sum()

    def _labels(self, rng: np.random.Generator, signal: np.ndarray) -> np.ndarray:
        logit = self.mean + signal
        if self.task == "ctr":
            return (rng.random(len(logit)) < 1 / (1 + np.exp(-logit))).astype(np.float32)
        return (logit + rng.normal(scale=self.noise, size=len(logit))).astype(np.float32)


@dataclass(frozen=True)
class Recovery:
    """How near the dims that a search kept come to the planted ones, block by block.

    useful, kept (L,): mean dims of the features of each planted block. rank_correlation: Spearman's, NaN where all are
    alike. error: mean absolute difference. even_error: of the same number of dims in every block.
    frequency_correlation, frequency_error: of a guess that goes by frequency alone, and knows the planted numbers but
    not where they are: most dims to the most frequent block.
    """

    useful: tuple[float, ...]
    kept: tuple[float, ...]
    rank_correlation: float
    error: float
    even_error: float
    frequency_correlation: float
    frequency_error: float


def recovery(useful: np.ndarray, kept: np.ndarray, block_of: np.ndarray) -> Recovery:
    """Score kept dims (N,) against useful dims (N,), over the blocks (N,) that the features were planted in."""
    blocks = np.unique(block_of)
    truth = np.array([useful[block_of == block].mean() for block in blocks])
    found = np.array([kept[block_of == block].mean() for block in blocks])
    by_frequency = -np.sort(-truth)
    return Recovery(
        tuple(np.round(truth, 3).tolist()),
        tuple(np.round(found, 3).tolist()),
        _rank_correlation(truth, found),
        float(np.abs(truth - found).mean()),
        float(np.abs(truth - truth.mean()).mean()),
        _rank_correlation(truth, by_frequency),
        float(np.abs(truth - by_frequency).mean()),
    )


def _rank_correlation(truth: np.ndarray, guess: np.ndarray) -> float:
    if np.ptp(truth) == 0 or np.ptp(guess) == 0:
        return float("nan")
    return float(spearmanr(truth, guess).statistic)


def pairwise_sum(tables: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Σ_{f<g} ⟨v_f, v_g⟩ of each row, (R,); ids (R, F), tables (F, features, dims)."""
    vectors = np.stack([table[column] for table, column in zip(tables, ids.T, strict=True)], axis=1)
    square_of_sum = (vectors.sum(1) ** 2).sum(1)
    sum_of_squares = (vectors**2).sum((1, 2))
    return (square_of_sum - sum_of_squares) / 2
