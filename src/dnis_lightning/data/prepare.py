"""From a source to what training needs: encoded rows, their split, the train vocabulary."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnis_lightning.data.arrays import open_array, save_array
from dnis_lightning.data.source import Source
from dnis_lightning.data.split import Shares, Split, assign_parts, default_shares, to_split
from dnis_lightning.data.store import EncodedDataset, encode, splits_folder, writing_to
from dnis_lightning.data.vocabulary import TrainVocabulary, build_vocabulary
from dnis_lightning.paths import alone_in, expand, whole_folder
from dnis_lightning.quantities import SplitName

SCHEMA = 1


@dataclass(frozen=True)
class Prepared:
    """Data ready to train on."""

    dataset: EncodedDataset
    split: Split
    vocabulary: TrainVocabulary

    @property
    def rows(self) -> dict[str, int]:
        """The number of rows of train, search, select and test."""
        return self.split.rows


def prepare(
    source: Source,
    *,
    cache: str | os.PathLike[str],
    split: SplitName = "three_way",
    split_seed: int = 0,
    min_count: int = 1,
) -> Prepared:
    """Open or make the encoded data of a source, its split and its train vocabulary.

    Raises DataError when the data cannot be read, the cache cannot be written, or a part of the split is empty.
    """
    dataset = encode(source, expand(cache))
    shares = default_shares(split, dataset.task)
    key = _key(split, split_seed, shares)
    rows = _opened_split(dataset, key, split, split_seed, shares)
    return Prepared(dataset, rows, _opened_vocabulary(dataset, key, rows.train, min_count))


def _key(kind: SplitName, seed: int, shares: Shares) -> str:
    told = json.dumps([SCHEMA, kind, seed, vars(shares)])
    return f"{kind}-s{seed}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


def _opened_split(dataset: EncodedDataset, key: str, kind: SplitName, seed: int, shares: Shares) -> Split:
    """A byte a row on disk; the row numbers are made from it."""
    folder = splits_folder(dataset.folder) / key
    shared = shares.select is None
    with contextlib.suppress(OSError, ValueError):
        part = open_array(folder / "part.npy")
        if part.shape == (dataset.rows,):
            return to_split(part, shared)
    part, shared = assign_parts(dataset, kind, seed, shares)
    with _replacing(folder) as made:
        save_array(made / "part.npy", part)
    return to_split(part, shared)


def _opened_vocabulary(dataset: EncodedDataset, key: str, train: np.ndarray, min_count: int) -> TrainVocabulary:
    folder = splits_folder(dataset.folder) / f"{key}-min{min_count}"
    with contextlib.suppress(OSError, ValueError, KeyError):
        return TrainVocabulary.load(folder, dataset)
    vocabulary = build_vocabulary(dataset, train, min_count)
    with _replacing(folder) as made:
        vocabulary.save(made)
    return vocabulary


@contextlib.contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A new folder in place of an absent or damaged one; one process at a time."""
    with writing_to(folder), alone_in(folder.parent):
        shutil.rmtree(folder, ignore_errors=True)
        with whole_folder(folder) as made:
            yield made
