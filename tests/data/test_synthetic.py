from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from dnis_lightning.data.prepare import prepare
from dnis_lightning.data.synthetic import Synthetic, pairwise_sum


def small(**options: object) -> Synthetic:
    return Synthetic(**({"rows": 3000, "features_per_field": 30, "dims": (4, 2, 0)} | options))  # type: ignore[arg-type]


def test_the_signal_is_the_sum_over_pairs() -> None:
    source = small(field_count=4)
    tables = source.tables()
    ids = np.random.default_rng(0).integers(0, 30, (20, 4))
    expected = [sum(tables[f, row[f]] @ tables[g, row[g]] for f, g in combinations(range(4), 2)) for row in ids]
    np.testing.assert_allclose(pairwise_sum(tables, ids), expected)


def test_without_noise_the_label_is_mean_plus_signal() -> None:
    source = small(noise=0.0, mean=3.0)
    (chunk,) = source.chunks()
    ids = np.stack([chunk.columns["field0"], chunk.columns["field1"]], axis=1)
    np.testing.assert_allclose(chunk.label, 3 + pairwise_sum(source.tables(), ids), rtol=1e-5)


def test_noise_has_its_standard_deviation() -> None:
    quiet, loud = small(noise=0.0, rows=20_000), small(noise=0.5, rows=20_000)
    difference = next(loud.chunks()).label - next(quiet.chunks()).label
    assert difference.std() == pytest.approx(0.5, rel=4 / np.sqrt(2 * 20_000))  # four standard errors


def test_clicks_follow_the_logit() -> None:
    source = small(task="ctr", rows=50_000, mean=-1.0)
    (chunk,) = source.chunks()
    ids = np.stack([chunk.columns["field0"], chunk.columns["field1"]], axis=1)
    probability = 1 / (1 + np.exp(1 - pairwise_sum(source.tables(), ids)))
    assert set(np.unique(chunk.label)) == {0, 1}
    error = np.sqrt((probability * (1 - probability)).mean() / 50_000)
    assert abs(chunk.label.mean() - probability.mean()) < 4 * error


def test_useful_dims_are_those_of_the_true_embeddings() -> None:
    source = small()
    useful = source.useful_dims()
    np.testing.assert_array_equal((source.tables() != 0).sum(-1), useful)
    assert [int((useful == dims).sum()) for dims in (4, 2, 0)] == [20, 20, 20]
    assert (np.diff(useful, axis=1) <= 0).all()


def test_frequency_falls_with_the_id_as_zipf_says() -> None:
    (chunk,) = small(rows=60_000, zipf=1.0).chunks()
    share = np.bincount(chunk.columns["field0"], minlength=30) / 60_000
    expected = 1 / np.arange(1, 31) / (1 / np.arange(1, 31)).sum()
    assert (np.abs(share - expected) < 5 * np.sqrt(expected / 60_000)).all()


def test_the_truth_follows_the_rows_of_the_vocabulary(tmp_path: Path) -> None:
    source = small()
    vocabulary = prepare(source, cache=tmp_path).vocabulary
    truth, useful = source.truth(vocabulary), source.useful_dims()
    for dims, (field, raw) in zip(truth, vocabulary.names(), strict=True):
        assert dims == (0 if raw.startswith("<") else useful[int(field[-1]), int(raw)])


def test_every_option_is_part_of_the_identity() -> None:
    base = small().identity()
    for option, value in {
        "seed": 1,
        "noise": 0.1,
        "zipf": 1.1,
        "dims": (4,),
        "scale": 1.0,
        "mean": 1.0,
        "rows": 9,
    }.items():
        assert small(**{option: value}).identity() != base
