"""From a source to what training needs: encoded rows, their split, the train vocabulary, the rows of each part."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from dnis_lightning.data.arrays import open_array, save_array
from dnis_lightning.data.candidates import Candidates, read_candidates
from dnis_lightning.data.rows import Pooling, RowFile, RowLayout, open_parts, write_parts
from dnis_lightning.data.source import RawForm, Source
from dnis_lightning.data.split import Split, assign_parts, default_shares, search_is_select
from dnis_lightning.data.store import DAMAGE, EncodedDataset, encode, splits_folder, writing_to
from dnis_lightning.data.vocabulary import TrainVocabulary, VocabularyOptions, build_vocabulary
from dnis_lightning.errors import ConfigError
from dnis_lightning.paths import alone_in, expand, whole_folder
from dnis_lightning.quantities import SplitName

SCHEMA = 2
_LABELS_AT_ONCE = 1 << 20
T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """Data ready to train on.

    parts: the rows of train, search, select and test, as a loader takes them. mean_label: of train.
    raw_form: how the source reads text, for what else is read later on. candidates: the test of top-k that was given.
    """

    dataset: EncodedDataset
    split: Split
    vocabulary: TrainVocabulary
    parts: dict[str, RowFile]
    mean_label: float
    raw_form: RawForm = field(default_factory=RawForm)
    candidates: Candidates | None = None

    @property
    def fingerprint(self) -> str:
        """Of what is trained on and tested: another one where the data or the candidates have other contents."""
        return self.dataset.fingerprint + ("" if self.candidates is None else self.candidates.fingerprint())

    @cached_property
    def label_std(self) -> float:
        """The standard deviation of the labels of train."""
        labels, is_train = self.dataset.label, self.split.is_train
        parts = (slice(start, start + _LABELS_AT_ONCE) for start in range(0, len(labels), _LABELS_AT_ONCE))
        squares = sum(
            float(np.square(labels[part][is_train[part]].astype(np.float64) - self.mean_label).sum()) for part in parts
        )
        return math.sqrt(squares / max(self.rows["train"], 1))

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
    options: VocabularyOptions | None = None,
    pooling: Pooling = "mean",
    max_values: int = 16,
    with_user: bool = False,
    candidates: str | None = None,
) -> Prepared:
    """Open or make the encoded data of a source, its split, its train vocabulary and the rows of each part.

    pooling, max_values: of fields of many values, with_user: see `RowLayout`. candidates: a file, see
    `read_candidates`, whose positives are the test rows of split=leave_one_out.
    Raises DataError when the data cannot be read, the cache cannot be written, or a part of the split is empty.
    """
    options = options or VocabularyOptions()
    dataset = encode(source, expand(cache))
    if dataset.ends:
        options = replace(options, max_values=max_values)
    shares = default_shares(split, dataset.task)
    given = None if candidates is None else _given(expand(candidates), dataset, split)
    mark = [] if given is None else [_LEFT_OUT, given.users.tobytes().hex(), given.positives.tobytes().hex()]
    key = f"{split}-s{split_seed}-{_mark(SCHEMA, split, split_seed, vars(shares), *mark)}"
    drawn = _opened_split(
        dataset,
        key,
        lambda: assign_parts(dataset, split, split_seed, shares, given)[0],
        search_is_select(split, shares),
    )
    key += f"-{_mark(vars(options))}"
    vocabulary = _opened(
        splits_folder(dataset.folder) / key,
        lambda folder: TrainVocabulary.load(folder, dataset),
        lambda folder: build_vocabulary(dataset, drawn.is_train, options).save(folder),
    )
    layout = RowLayout(vocabulary, pooling, max_values, with_user)
    parts, mean = _opened(
        splits_folder(dataset.folder) / f"{key}-{layout.name}",
        lambda folder: open_parts(layout, drawn, folder),
        lambda folder: write_parts(layout, drawn, folder, split_seed),
    )
    return Prepared(dataset, drawn, vocabulary, parts, mean, getattr(source, "raw_form", RawForm()), given)


_LEFT_OUT = 2
"""Of how the rows beside those of given candidates are drawn: another number where that has changed."""


def _mark(*told: object) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=dict).encode()).hexdigest()[:8]


def _given(path: Path, dataset: EncodedDataset, split: SplitName) -> Candidates:
    if split != "leave_one_out":
        raise ConfigError(f"data.candidates: its positives are test rows of data.split=leave_one_out, not of {split}")
    if len(dataset.coded) != 2 or dataset.user is None:
        raise ConfigError("data.candidates: it takes data of two categorical fields, of which data.user names one")
    user, item = dataset.coded[dataset.user], dataset.coded[1 - dataset.user]
    return read_candidates(path, dataset, user.name, item.name)


def _opened_split(dataset: EncodedDataset, key: str, draw: Callable[[], np.ndarray], shared: bool) -> Split:
    """A byte a row on disk; draw: which part each row belongs to."""

    def opened(folder: Path) -> Split:
        part = open_array(folder / "part.npy")
        if part.shape != (dataset.rows,):
            raise ValueError(f"{folder}: made for other data")
        return Split(part, shared)

    def make(folder: Path) -> None:
        save_array(folder / "part.npy", draw())

    return _opened(splits_folder(dataset.folder) / key, opened, make)


def _opened(folder: Path, opened: Callable[[Path], T], make: Callable[[Path], None]) -> T:
    """What `opened` reads from a folder; where it is absent or damaged, `make` fills a new one first.

    One process at a time; the others wait and open what the first has made.
    """
    with contextlib.suppress(*DAMAGE):
        return opened(folder)
    with writing_to(folder), alone_in(folder.parent):
        with contextlib.suppress(*DAMAGE):
            return opened(folder)
        for stale in (folder, *folder.parent.glob(f".{folder.name}.*")):  # damaged; left by a killed process
            shutil.rmtree(stale, ignore_errors=True)
        with whole_folder(folder) as made:
            make(made)
        return opened(folder)
