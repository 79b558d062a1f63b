"""Ratings or clicks whose useful dimensions are planted, so that a search can be held against the truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np

from dnis_lightning.data.source import Chunk, Field
from dnis_lightning.data.vocabulary import TrainVocabulary
from dnis_lightning.quantities import Count, NonNegative, Positive, Seed

_PIECE = 1_000_000


class Synthetic:
    """Rows of Zipf-distributed features with true embeddings of known length.

    The features of a field are ranked by popularity and cut into as many equal groups as `useful_dims` has entries, the
    most popular first; a feature of group l has a true embedding whose first useful_dims[l] coordinates are normal and
    whose others are 0. The label is Σ_{f<g} ⟨v_f, v_g⟩, scaled to a standard deviation of `signal`, plus normal noise
    (rating, around 3.5), or a coin thrown with that logit (ctr).

    Which coordinates are useful cannot be told from the rows, as a factor model may permute and rotate them: only how many.
    """

    user_field = "f0"

    def __init__(
        self,
        task: Literal["rating", "ctr"] = "rating",
        rows: Count = 200_000,
        fields: Count = 2,
        features_per_field: Count = 500,
        useful_dims: Sequence[int] = (4, 4, 4, 4, 4),
        zipf: NonNegative = 1.0,
        signal: Positive = 1.0,
        noise: NonNegative = 0.5,
        seed: Seed = 0,
    ) -> None:
        self.name, self.task = "synthetic", task
        self.rows, self.features_per_field, self.useful_dims = rows, features_per_field, tuple(useful_dims)
        self.zipf, self.signal, self.noise, self.seed = zipf, signal, noise, seed
        self.fields = tuple(Field(f"f{number}") for number in range(fields))

    def identity(self) -> dict[str, Any]:
        """All options."""
        names = ("task", "rows", "features_per_field", "useful_dims", "zipf", "signal", "noise", "seed")
        return {"reader": 1, **{name: getattr(self, name) for name in names}}

    def useful(self) -> np.ndarray:
        """(features of a field,) the planted number of useful dimensions of each, the most popular first."""
        groups = np.array_split(np.arange(self.features_per_field), len(self.useful_dims))
        return np.concatenate([np.full(len(group), dims) for group, dims in zip(groups, self.useful_dims, strict=True)])

    def truth(self, vocabulary: TrainVocabulary, names: Sequence[tuple[str, str]]) -> np.ndarray:
        """(N,) the useful dimensions of each table row; 0 for out-of-vocabulary rows. names: (field, raw id) of the rows."""
        useful = self.useful()
        return np.array([0 if raw.startswith("<") else useful[int(raw)] for _, raw in names])

    def chunks(self) -> Iterator[Chunk]:
        """The rows, a million at a time."""
        rng = np.random.default_rng(self.seed)
        tables = [self._true_table(rng) for _ in self.fields]
        popularity = np.arange(1, self.features_per_field + 1, dtype=np.float64) ** -self.zipf
        scale = self.signal / max(_spread(tables, popularity, rng), 1e-12)
        for start in range(0, self.rows, _PIECE):
            count = min(_PIECE, self.rows - start)
            ids = _draw(popularity, (len(tables), count), rng)
            label = self._label(scale * _interaction(tables, ids), rng)
            yield Chunk({field.name: column for field, column in zip(self.fields, ids, strict=True)}, label)

    def _true_table(self, rng: np.random.Generator) -> np.ndarray:
        width = max([1, *self.useful_dims])
        return rng.normal(size=(self.features_per_field, width)) * (np.arange(width) < self.useful()[:, None])

    def _label(self, score: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.task == "ctr":
            return (rng.random(len(score)) < 1 / (1 + np.exp(-score))).astype(np.float32)
        return (3.5 + score + self.noise * rng.normal(size=len(score))).astype(np.float32)


def _draw(popularity: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    ends = np.cumsum(popularity)
    return np.minimum(np.searchsorted(ends, rng.random(shape) * ends[-1], side="right"), len(ends) - 1)


def _interaction(tables: Sequence[np.ndarray], ids: np.ndarray) -> np.ndarray:
    rows = [table[column] for table, column in zip(tables, ids, strict=True)]
    return sum((f * g).sum(1) for f, g in combinations(rows, 2)) + np.zeros(ids.shape[1])


def _spread(tables: Sequence[np.ndarray], popularity: np.ndarray, rng: np.random.Generator) -> float:
    return float(_interaction(tables, _draw(popularity, (len(tables), 100_000), rng)).std())
