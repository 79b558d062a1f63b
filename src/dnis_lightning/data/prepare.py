"""From a source to what a run reads: the encoded data, a split, and the vocabulary of its train rows."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnis_lightning.data.source import Source
from dnis_lightning.data.split import Split, SplitKind, split_rows
from dnis_lightning.data.store import EncodedDataset, encode
from dnis_lightning.data.vocabulary import TrainVocabulary, build_vocabulary
from dnis_lightning.paths import whole_folder

_PARTS = ("train", "search", "select", "test")


@dataclass(frozen=True)
class Prepared:
    """Everything about the data that a run needs."""

    dataset: EncodedDataset
    split: Split
    vocabulary: TrainVocabulary

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each part; search and select are the same rows in the splits that say so."""
        return {name: len(getattr(self.split, name)) for name in _PARTS}


def prepare(
    source: Source, *, cache: str | Path, split: SplitKind, split_seed: int, min_count: int = 1, task: str | None = None
) -> Prepared:
    """Encode the source once, divide its rows and build the vocabulary; what is already there is opened.

    The split and the vocabulary are small artefacts beside the encoded data, under a name made of their options.
    Raises DataError for a fault of the source, or a split that cannot be.
    """
    dataset = encode(source, cache)
    task = source.task if task is None else task
    options = json.dumps([split, split_seed, min_count, task if split == "authors" else None])
    key = f"{split}-{split_seed}-{min_count}-{hashlib.sha256(options.encode()).hexdigest()[:8]}"
    folder = dataset.folder.with_name(f"{dataset.folder.name}.splits") / key
    found = _open(folder, dataset)
    if found is None:
        rows = split_rows(dataset, split, split_seed, task=task)
        found = Prepared(dataset, rows, build_vocabulary(dataset, rows.train, min_count))
        _save(found, folder)
    return found


def _save(prepared: Prepared, folder: Path) -> None:
    with whole_folder(folder) as part:
        for name in _PARTS:
            np.save(part / f"{name}.npy", getattr(prepared.split, name))
        prepared.vocabulary.save(part)
        (part / "split.json").write_text(json.dumps({"shared": prepared.split.shared}))


def _open(folder: Path, dataset: EncodedDataset) -> Prepared | None:
    if not folder.exists():
        return None
    try:
        shared = json.loads((folder / "split.json").read_text())["shared"]
        parts = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _PARTS}
        return Prepared(dataset, Split(**parts, shared=shared), TrainVocabulary.load(folder, dataset.fields))
    except (OSError, ValueError, KeyError):
        shutil.rmtree(folder, ignore_errors=True)  # damaged: made again
        return None
