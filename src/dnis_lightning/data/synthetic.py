"""Ratings or clicks made from embeddings whose useful dimensions are known, so that a search can be scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field as Bounds

from dnis_lightning.data.source import Chunk, Field, TaskName
from dnis_lightning.quantities import Count, NonNegative, Positive, Seed, Whole

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
        mean: float = 0.0,
        noise: NonNegative = 0.3,
        seed: Seed = 0,
        task: TaskName = "rating",
    ) -> None:
        self.name = "synthetic"
        self.task = task
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
        fields, features = len(self.fields), self.features_per_field
        rank = np.arange(features)[None, :] * fields + np.arange(fields)[:, None]  # ties in field order
        block = rank * len(self.dims) // (fields * features)
        return np.asarray(self.dims, dtype=np.int64)[block]

    def tables(self) -> np.ndarray:
        """(F, features_per_field, max dims) the true embeddings."""
        useful, width = self.useful_dims(), max(self.dims)
        rng = np.random.default_rng([self.seed, 0])
        normal = rng.normal(scale=self.scale, size=(*useful.shape, width))
        return np.where(np.arange(width) < useful[:, :, None], normal, 0.0)

    def truth(self, vocabulary: TrainVocabulary) -> np.ndarray:
        """(N,) the useful dimensions of each row of the embedding table; 0 for the out-of-vocabulary rows."""
        useful = self.useful_dims()
        numbers = {field.name: number for number, field in enumerate(self.fields)}
        pairs = zip(vocabulary.names(), vocabulary.is_out_of_vocabulary, strict=True)
        dims = [0 if unseen else useful[numbers[field], int(raw)] for (field, raw), unseen in pairs]
        return np.asarray(dims, dtype=np.int64)

    def _popularity(self) -> np.ndarray:
        weight = np.arange(1, self.features_per_field + 1) ** -float(self.zipf)
        return weight / weight.sum()

    def _labels(self, rng: np.random.Generator, signal: np.ndarray) -> np.ndarray:
        logit = self.mean + signal
        if self.task == "ctr":
            return (rng.random(len(logit)) < 1 / (1 + np.exp(-logit))).astype(np.float32)
        return (logit + rng.normal(scale=self.noise, size=len(logit))).astype(np.float32)


def pairwise_sum(tables: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Σ_{f<g} ⟨v_f, v_g⟩ of each row, (R,); ids (R, F), tables (F, features, dims)."""
    vectors = np.stack([table[column] for table, column in zip(tables, ids.T, strict=True)], axis=1)
    square_of_sum = (vectors.sum(1) ** 2).sum(1)
    sum_of_squares = (vectors**2).sum((1, 2))
    return (square_of_sum - sum_of_squares) / 2
