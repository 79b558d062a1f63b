"""What becomes of numbers, against loops in double precision."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dnis_lightning.data import numbers
from dnis_lightning.data.numbers import fit_numbers
from dnis_lightning.packed.numbers import Binned, Scaled, from_json
from dnis_lightning.quantities import NumericForm

FORMS: tuple[NumericForm, ...] = ("scalar", "raw", "standard", "log2", "quantile")
SPECIAL = [0.0, -0.0, 1, 2, 2.5, 3, 20, -1, -2, -3, 0.1, 1e-40, 1e38, -1e38, 3.4e38, -3.4e38, np.nan]


def pieces(*whole: np.ndarray) -> Callable[[], Iterator[np.ndarray]]:
    return lambda: iter(whole)


def fitted(form: NumericForm, column: Any, **options: Any) -> Any:
    """What becomes of one column, all of whose rows are train."""
    column, options = np.asarray(column, dtype=np.float32)[:, None], {"least": [1]} | options
    return fit_numbers(form, pieces(column), fields=1, rows=len(column), **options)[0][0]


@pytest.fixture
def column(rng: np.random.Generator) -> np.ndarray:
    """Numbers of many sizes and signs, with ties and missing ones."""
    made = np.exp(rng.normal(0, 3, 2000)) * rng.choice([-1, 1], 2000)
    made[:600] = rng.integers(-5, 20, 600)
    made[rng.random(2000) < 0.2] = np.nan
    return np.append(made, SPECIAL).astype(np.float32)


def test_scalar_and_raw_are_their_formulas(column: np.ndarray) -> None:
    scalar, raw = fitted("scalar", column)(column), fitted("raw", column)(column)
    assert scalar.dtype == raw.dtype == np.float32
    for x, a, b in zip(column.tolist(), scalar.tolist(), raw.tolist(), strict=True):
        if math.isnan(x):
            assert math.isnan(a)
            assert math.isnan(b)
        else:
            assert a == pytest.approx(math.copysign(math.log1p(abs(x)) / 4, x), rel=1e-6)
            assert b == x


@pytest.mark.parametrize(
    "shift_scale", [(0.0, 1.0), (5.0, 1e-3), (1e9, 64.0), (0.0, 1e38), (-1e38, 1e38), (0.0, 1e-40)], ids=str
)
def test_standard_has_mean_0_and_deviation_1(shift_scale: tuple[float, float], rng: np.random.Generator) -> None:
    column = (shift_scale[0] + shift_scale[1] * rng.uniform(-1, 1, 3000)).astype(np.float32)
    column[::7] = np.nan
    there = [x for x in column.tolist() if not math.isnan(x)]
    mean = math.fsum(there) / len(there)
    deviation = math.hypot(*(x - mean for x in there)) / math.sqrt(len(there))
    values = fitted("standard", column)(column)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(values), np.isnan(column))
    expected = [(x - mean) / deviation for x in there]
    np.testing.assert_allclose(values[~np.isnan(values)], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("constant", [0.0, 0.1, -7.3, 16_777_217, 1e38, 1e-40])
def test_a_constant_column_is_shifted_alone(constant: float) -> None:
    """Also over several pieces; a deviation of 10^-17 by rounding would blow other numbers up."""
    piece = np.full((1001, 1), constant, dtype=np.float32)
    (treated,), present = fit_numbers("standard", pieces(piece, piece[:333], piece[:7]), fields=1, rows=1341, least=[1])
    assert present.tolist() == [1341]
    assert treated == Scaled(False, float(piece[0, 0]), 1.0)
    np.testing.assert_array_equal(treated(piece[:2, 0]), [0, 0])


@settings(max_examples=60, deadline=None)
@given(
    whole=arrays(np.float32, (30, 2), elements=st.one_of(st.just(np.nan), st.floats(-1e6, 1e6, width=32))),
    cuts=st.lists(st.integers(0, 30), max_size=4),
)
def test_moments_in_pieces_are_those_of_the_whole(whole: np.ndarray, cuts: list[int]) -> None:
    count, mean, deviation = numbers._moments(iter(np.split(whole, sorted(cuts))), 2)
    for field, column in enumerate(whole.T.astype(np.float64)):
        there = column[~np.isnan(column)]
        assert count[field] == len(there)
        if len(there):
            assert mean[field] == pytest.approx(there.mean(), rel=1e-9, abs=1e-9)
            expected = there.std() if there.min() < there.max() else 1.0
            assert deviation[field] == pytest.approx(expected, rel=1e-6, abs=1e-9)
        else:
            assert (mean[field], deviation[field]) == (0, 1)


def test_log2_bins_are_those_of_the_squared_logarithm() -> None:
    """Whole numbers from 3 on have one bin for each ⌊log(x)²⌋, those up to 2 one each; mirrored below zero."""
    whole = np.arange(-3000, 3001)
    treated = fitted("log2", whole)
    groups: dict[int, set[tuple[int, int]]] = {}
    for x, bin_ in zip(whole.tolist(), treated(whole.astype(np.float32)).tolist(), strict=True):
        key = (1, int(math.log(abs(x)) ** 2)) if abs(x) > 2 else (0, abs(x))
        groups.setdefault(bin_, set()).add((*key, int(np.sign(x))))
    assert all(len(keys) == 1 for keys in groups.values())
    assert len(set.union(*groups.values())) == len(groups)
    assert sorted(groups) == list(range(len(groups))), "bins without a number of train are joined to others"


def test_log2_tells_huge_numbers_apart() -> None:
    treated = fitted("log2", [-3e38, -1e38, -1e20, 0, 1e20, 1e38, 3e38])
    bins = treated(np.array([-1e38, -1e20, 0, 1e20, 1e38, np.nan], dtype=np.float32))
    assert (np.diff(bins[:-1]) > 0).all()
    assert bins[-1] == -1


def test_quantile_bins_hold_about_as_many_numbers(rng: np.random.Generator) -> None:
    column = rng.normal(size=4000)
    treated = fitted("quantile", column, bins=8)
    assert treated.counts.tolist() == [500] * 8


def test_quantile_bins_with_ties_are_not_empty() -> None:
    treated = fitted("quantile", [0] * 900 + [1] * 50 + list(range(2, 52)), bins=10)
    assert treated.counts.sum() == 1000
    assert treated.counts.min() > 0
    assert len(np.unique(treated.edges)) == len(treated.edges)
    assert treated(np.float32([0, 1])).tolist() == [0, 1]


@pytest.mark.parametrize("form", ["log2", "quantile"])
def test_a_bin_holds_what_lies_between_its_edges(form: NumericForm, column: np.ndarray) -> None:
    treated = fitted(form, column, bins=12, least=[30])
    bins = treated(column)
    bounds = [-math.inf, *treated.edges.tolist(), math.inf]
    assert bounds == sorted(set(bounds))
    counts = [0] * (len(bounds) - 1)
    for x, bin_ in zip(column.tolist(), bins.tolist(), strict=True):
        if math.isnan(x):
            assert bin_ == -1
        else:
            assert bounds[bin_] <= x < bounds[bin_ + 1]
            counts[bin_] += 1
    assert counts == treated.counts.tolist()
    assert len(treated.names()) == len(counts)


@settings(max_examples=100, deadline=None)
@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=12), least=st.integers(0, 12))
def test_joined_bins_lose_nothing(counts: list[int], least: int) -> None:
    edges = np.arange(1.0, len(counts))
    joined = numbers._joined(Binned(edges), np.array(counts), least)
    assert set(joined.edges) <= set(edges.tolist())
    assert joined.edges.tolist() == sorted(joined.edges)
    assert len(joined.counts) == len(joined.edges) + 1
    starts = [0, *joined.edges.astype(int).tolist()]
    assert joined.counts.tolist() == [
        sum(counts[start:end]) for start, end in zip(starts, [*starts[1:], len(counts)], strict=True)
    ]
    assert len(joined.counts) == 1 or joined.counts.min() >= least


def test_bins_with_enough_numbers_stay() -> None:
    joined = numbers._joined(Binned(np.arange(1.0, 6)), np.array([2, 1, 5, 1, 1, 4]), 3)
    assert joined.edges.tolist() == [2, 5], "the lowest goes up until it has enough, the others go down"
    assert joined.counts.tolist() == [3, 7, 4]


@pytest.mark.parametrize("form", FORMS)
def test_without_a_number_in_train_all_forms_are_whole(form: NumericForm) -> None:
    (treated, _), present = fit_numbers(
        form, pieces(np.array([[np.nan, 1], [np.nan, 2]], dtype=np.float32)), fields=2, rows=2, least=[1, 1]
    )
    assert present.tolist() == [0, 2]
    values = treated(np.array([np.nan, 3, -1e38], dtype=np.float32))
    if isinstance(treated, Binned):
        assert values.tolist() == [-1, 0, 0]
        assert treated.counts.tolist() == [0]
    else:
        assert np.isfinite(values[1:]).all()
        assert np.isnan(values[0])


@pytest.mark.parametrize("form", FORMS)
def test_it_is_the_same_in_pieces_and_for_many_fields(form: NumericForm, column: np.ndarray) -> None:
    table = np.stack([column, column[::-1], np.full_like(column, 3)], axis=1)
    options: Any = {"fields": 3, "rows": len(table), "bins": 7, "least": [1, 5, 9]}
    whole, present = fit_numbers(form, pieces(table), **options)
    parted, counted = fit_numbers(form, pieces(table[:1], table[1:1], table[1:]), **options)
    assert present.tolist() == counted.tolist() == np.count_nonzero(~np.isnan(table), axis=0).tolist()
    for one, other, values in zip(whole, parted, table.T, strict=True):
        np.testing.assert_allclose(one(values), other(values), rtol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_it_goes_through_json(form: NumericForm, column: np.ndarray) -> None:
    treated = fitted(form, column, least=[3])
    back = from_json(json.loads(json.dumps(treated.to_json())))
    assert type(back) is type(treated)
    np.testing.assert_array_equal(back(column), treated(column))
    if isinstance(treated, Binned):
        np.testing.assert_array_equal(back.counts, treated.counts)


@pytest.mark.parametrize("told", [{"edges": [1]}, {"shift": 1, "other": 2}])
def test_json_of_anything_else_is_refused(told: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError)):
        from_json(told)


def test_a_sample_gives_nearly_the_quantiles_of_all(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(numbers, "_SAMPLE", 2000)
    treated = fitted("quantile", rng.normal(size=20_000), bins=4)
    np.testing.assert_allclose(treated.counts, [5000] * 4, rtol=0.15)
