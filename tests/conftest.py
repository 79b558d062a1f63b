"""Small models and batches that many tests share."""

from __future__ import annotations

import gc
import os
from itertools import pairwise

import numpy as np
import pytest
import torch

from dnis_lightning.batch import Batch
from dnis_lightning.embedding.selection import SoftSelection
from dnis_lightning.interaction.fm import FM
from dnis_lightning.recommender import FeatureSpace, Recommender

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers share the cores


def pytest_collection_finish() -> None:
    gc.freeze()  # or every phase of training looks through all modules and tests for garbage


def random_batch(rng: np.random.Generator, offsets: tuple[int, ...], rows: int, *, values: bool = False) -> Batch:
    """`rows` rows with one feature of each field, real labels, and values for half of the fields if asked."""
    ids = np.stack([rng.integers(start, end, rows) for start, end in pairwise(offsets)], axis=1)
    scale = rng.normal(size=ids.shape) if values else None
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(rng.normal(size=rows)),
        None if scale is None else torch.from_numpy(scale),
    )


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def small_fm(rng: np.random.Generator) -> Recommender:
    """An FM over 3 fields and 12 features, K = 4, in 3 blocks, in double precision, its gates inside (0, 1)."""
    torch.manual_seed(0)
    model = Recommender(FeatureSpace((0, 4, 9, 12)), FM(), dims=4, std=0.5, global_bias=0.3)
    model.selection = SoftSelection(rng.integers(0, 3, 12), 3, 4)
    model.selection.gates.data.uniform_(0.2, 0.9)
    model.first_order.weight.data.normal_()
    return model.double()
