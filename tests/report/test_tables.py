"""Means, spreads, marks and tests against hand computations; nothing is averaged but seeds."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import special

from dnis_lightning.report.collect import collect
from dnis_lightning.report.layout import caption, footnotes, grid, markdown
from dnis_lightning.report.settle import settle
from dnis_lightning.report.tables import Table, make_tables, marked, paired
from tests.report.runs import make_run, part, rating


def tables(folder: Path, against: str = "dnis") -> list[Table]:
    return make_tables(settle(collect([folder]).runs), against)


def seeds(folder: Path, values: Sequence[float], **keys: object) -> None:
    """A run for each value, with seeds 0, 1, …"""
    for seed, value in enumerate(values):
        make_run(folder, rating(value), seed=seed, **keys)  # type: ignore[arg-type]


def line(table: Table, row: str, model: str = "mf") -> pd.Series:
    found = table.summary[(table.summary["row"] == row) & (table.summary["model"] == model)]
    assert len(found) == 1, table.summary["row"].tolist()
    return found.iloc[0]


def test_mean_and_spread_over_seeds_by_hand(tmp_path: Path) -> None:
    seeds(tmp_path, [0.5, 0.6, 1.0])  # mean 0.7, squares 0.04 + 0.01 + 0.09 = 0.14 over n − 1 = 2
    (table,) = tables(tmp_path)
    told = line(table, "DNIS (unpruned)")
    assert told["mse_mean"] == pytest.approx(0.7)
    assert told["mse_std"] == pytest.approx(math.sqrt(0.07))
    assert told["n"] == 3
    assert told["seeds"] == "0 1 2"
    assert f"**0.7000** ± {math.sqrt(0.07):.4f}" in markdown(table)


def test_one_run_has_no_spread(tmp_path: Path) -> None:
    make_run(tmp_path, rating(0.7))
    (table,) = tables(tmp_path)
    assert "**0.7000** |" in markdown(table)
    assert "over seed 0." in caption(table)


def test_methods_are_called_and_ordered_as_in_the_paper(tmp_path: Path) -> None:
    for search in ("dnis", "pep", "mde", "magnitude", "random", "grid", "none", "mine"):
        make_run(tmp_path, rating(0.7), search=search, pruned=[part(rating(0.8), 500, budget="cr:2")])
    (table,) = tables(tmp_path)
    assert [label for label, _ in grid(table).rows] == [
        *("Plain table", "Plain table (cr:2)", "Grid Search", "Grid Search (cr:2)"),
        *("Random Search", "Random Search (cr:2)", "MDE", "MDE (cr:2)"),
        *("Network pruning (unpruned)", "Network pruning (cr:2)", "PEP (unpruned)", "PEP (cr:2)"),
        *("mine (unpruned)", "mine (cr:2)", "DNIS (unpruned)", "DNIS (cr:2)"),
    ]


@pytest.mark.parametrize(
    ("keys", "labels"),
    [
        ({"l2": 0.05}, ["l2 = 0", "l2 = 0.05"]),
        ({"profile": "paper"}, ["profile = default", "profile = paper"]),
        ({"base_dim": 64}, ["K = 10", "K = 64"]),
        ({"config": {"optimizer.schedule": "cosine"}}, ["no schedule", "schedule = cosine"]),
        ({"config": {"data.batch_size": 7}}, ["no batch_size", "batch_size = 7"]),
    ],
)
def test_different_configurations_are_never_averaged(keys: dict, labels: list[str], tmp_path: Path) -> None:
    seeds(tmp_path, [0.5, 0.6])
    seeds(tmp_path, [0.7, 0.8], **keys)
    (table,) = tables(tmp_path)
    assert sorted(table.summary["settings"]) == sorted(labels)
    assert sorted(round(value, 6) for value in table.summary["mse_mean"]) == [0.55, 0.75]


@pytest.mark.parametrize(
    "keys", [{"data": "criteo"}, {"split": "paper"}, {"split_seed": 1}, {"features": 7}, {"task": "other"}]
)
def test_what_cannot_be_compared_is_in_another_table(keys: dict, tmp_path: Path) -> None:
    seeds(tmp_path, [0.5, 0.6])
    seeds(tmp_path, [0.7, 0.8], **keys)
    assert sorted(round(float(table.summary["mse_mean"].iloc[0]), 6) for table in tables(tmp_path)) == [0.55, 0.75]


def test_without_a_config_runs_are_told_apart_by_their_result(tmp_path: Path) -> None:
    seeds(tmp_path, [0.5, 0.6], config=None)
    seeds(tmp_path, [0.7, 0.8], config=None, l2=1.0)
    (table,) = tables(tmp_path)
    assert table.summary["settings"].tolist() == ["l2 = 0", "l2 = 1"]


def test_numbers_written_in_other_ways_are_the_same(tmp_path: Path) -> None:
    make_run(tmp_path, rating(0.5), seed=0, config={"model.l2": 0})
    make_run(tmp_path, rating(0.6), seed=1, config={"model.l2": 0.0})
    (table,) = tables(tmp_path)
    assert table.summary["n"].tolist() == [2]


def test_pruning_tells_cuts_apart_but_not_the_unpruned_model(tmp_path: Path) -> None:
    for epochs, value in ((0, 0.9), (50, 0.8)):
        cut = part(rating(value), 500, budget="cr:2")
        make_run(tmp_path, rating(0.7), pruned=[cut], config={"prune.finetune_epochs": epochs})
    (table,) = tables(tmp_path)
    assert table.summary["row"].tolist() == [
        *("DNIS (unpruned)", "DNIS (cr:2), finetune_epochs = 0", "DNIS (cr:2), finetune_epochs = 50")
    ]


def test_models_stand_side_by_side_whatever_only_they_have(tmp_path: Path) -> None:
    make_run(tmp_path, rating(0.5), model="mf", config={"model.reduce": "sum"})
    make_run(tmp_path, rating(0.6), model="mlp", config={"model.hidden": [64, 32]})
    make_run(tmp_path, rating(0.4), model="mlp", search="none", config={"model.hidden": [64, 32]})
    (table,) = tables(tmp_path)
    plan = grid(table)
    assert plan.models == ("MF", "MLP")
    assert [label for label, _ in plan.rows] == ["Plain table", "DNIS (unpruned)"]
    assert all(len(cells) == 2 * len(plan.columns) for _, cells in plan.rows)
    assert "MLP: MSE" in markdown(table)


def test_models_trained_in_different_ways_do_not_share_a_row(tmp_path: Path) -> None:
    make_run(tmp_path, rating(0.5), model="mf")
    make_run(tmp_path, rating(0.6), model="mlp", profile="paper")
    (table,) = tables(tmp_path)
    assert sorted(table.summary["settings"]) == ["profile = default", "profile = paper"]


@pytest.mark.parametrize(
    ("metric", "values", "marks"),
    [
        ("mse", [0.7, 0.5, 0.6], ["", "best", "second"]),
        ("auc", [0.7, 0.5, 0.6], ["best", "", "second"]),
        ("ndcg@10", [0.7, 0.8], ["second", "best"]),
        ("logloss", [0.5, 0.5, 0.6, 0.6, 0.7], ["best", "best", "second", "second", ""]),
        ("mse", [0.50001, 0.50002, 0.6], ["best", "best", "second"]),  # 0.5000 as printed
        ("mse", [np.nan, 0.5, np.nan], ["", "best", ""]),
        ("mse", [np.nan, np.nan], ["", ""]),
    ],
)
def test_best_and_second_are_marked(metric: str, values: list[float], marks: list[str]) -> None:
    assert marked(pd.Series(values), metric).tolist() == marks


def test_marks_are_a_models_own(tmp_path: Path) -> None:
    make_run(tmp_path, rating(0.5), model="mf")
    make_run(tmp_path, rating(0.6), model="mlp")
    (table,) = tables(tmp_path)
    assert table.summary["mse_mark"].tolist() == ["best", "best"]


def test_the_paired_test_by_hand() -> None:
    # d = 1, 2, 3, 6: mean 3, squares 4 + 1 + 0 + 9 = 14, s² = 14/3, t = 3 / √(14/12) with 3 degrees of freedom
    ours, theirs = pd.Series([2.0, 4, 6, 10], [0, 1, 2, 3]), pd.Series([4.0, 3, 2, 1], [3, 2, 1, 0])
    t = 3 / math.sqrt(14 / 3 / 4)
    p = special.betainc(1.5, 0.5, 3 / (3 + t**2))  # the tails of Student's t, by the incomplete beta function
    half = special.stdtrit(3, 0.975) * math.sqrt(14 / 3 / 4)
    assert paired(ours, theirs) == (pytest.approx(3.0), pytest.approx(half), pytest.approx(p))


@pytest.mark.parametrize(
    ("ours", "difference"),
    [
        (pd.Series([0.5, 0.6], [0, 1]), math.nan),
        (pd.Series([0.5, 0.6, 0.7], [5, 6, 7]), math.nan),
        (pd.Series([0.5, 0.6, np.nan], [0, 1, 2]), math.nan),
        (pd.Series([], dtype=float), math.nan),
        (pd.Series([0.5, 0.6, 0.7], [0, 1, 2]), 0.0),
        (pd.Series([0.6, 0.7, 0.8], [0, 1, 2]), 0.1),
    ],
    ids=["two seeds", "no common seeds", "one diverged", "nothing", "identical", "all by the same"],
)
def test_no_p_where_there_is_none(ours: pd.Series, difference: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told, half, p = paired(ours, pd.Series([0.5, 0.6, 0.7], [0, 1, 2]))
    assert told == pytest.approx(difference, nan_ok=True)
    assert math.isnan(half)
    assert math.isnan(p)


def test_rows_are_held_against_the_best_of_a_search_on_select(tmp_path: Path) -> None:
    for seed in range(3):
        cut = part(rating(0.9 + 0.01 * seed**2, select=0.4), 500, budget="cr:2")
        make_run(tmp_path, rating(0.7, select=0.5), seed=seed, pruned=[cut])
        make_run(tmp_path, rating(1.0), seed=seed, search="none")
    (table,) = tables(tmp_path)
    assert table.reference == {"mf": "DNIS (cr:2)"}  # though test says otherwise
    assert line(table, "Plain table")["mse_difference"] == pytest.approx(0.1 - 0.01 * (0 + 1 + 4) / 3)
    (other,) = tables(tmp_path, against="none")
    assert other.reference == {"mf": "Plain table"}
    assert line(other, "DNIS (unpruned)")["mse_difference"] == pytest.approx(-0.3)


def test_a_row_with_a_seed_that_diverged_is_not_the_best(tmp_path: Path) -> None:
    for seed in range(3):
        diverged = rating(0.6, select=0.3) if seed else {"select/mse": None, "test/mse": None}
        make_run(tmp_path, rating(0.7), seed=seed, pruned=[part(diverged, 500, budget="cr:2")])
    (table,) = tables(tmp_path)
    assert table.reference == {"mf": "DNIS (unpruned)"}


def test_missing_seeds_are_counted_and_only_common_ones_paired(tmp_path: Path) -> None:
    seeds(tmp_path, [0.5, 0.6, 0.7, 0.9])
    for seed, value in ((1, 0.65), (2, 0.8), (3, 0.91), (7, 5.0)):
        make_run(tmp_path, rating(value), seed=seed, search="none")
    (table,) = tables(tmp_path)
    plain = line(table, "Plain table")
    assert plain["seeds"] == "1 2 3 7"
    assert plain["mse_difference"] == pytest.approx((0.05 + 0.1 + 0.01) / 3)
    assert "as many seeds as the column Runs says" in caption(table)


def test_without_the_reference_there_is_no_test(tmp_path: Path) -> None:
    seeds(tmp_path, [0.5, 0.6, 0.7], search="none")
    (table,) = tables(tmp_path)
    assert table.summary["mse_p"].isna().all()
    assert "no run here" in caption(table)


def test_time_is_held_against_the_reference(tmp_path: Path) -> None:
    make_run(tmp_path, rating(0.5), seconds={"total": 60.0})
    for trial in range(4):
        make_run(tmp_path, {"select/mse": 0.5}, search="grid", trial=trial, seconds={"total": 45.0})
    (table,) = tables(tmp_path)
    assert line(table, "Grid Search")["seconds_ratio"] == pytest.approx(3.0)


def test_single_trials_show_no_test_and_say_how_to_get_one(tmp_path: Path) -> None:
    for trial, select in enumerate((0.5, 0.4)):
        trials = [{"name": f"dim={trial}"}]
        make_run(tmp_path, {"select/mse": select}, search="grid", trial=trial, trials=trials)
    (table,) = tables(tmp_path)
    (note,) = footnotes(table)
    assert "trial 1 (dim=1), best of 2" in note
    assert "resume=auto" in note
    assert "–†" in markdown(table)


def test_a_diverged_run_is_not_left_out_of_the_mean(tmp_path: Path) -> None:
    for seed, value in enumerate((0.5, None, 0.7)):
        make_run(tmp_path, rating(value), seed=seed)
    (table,) = tables(tmp_path)
    assert math.isnan(line(table, "DNIS (unpruned)")["mse_mean"])
    assert any("no finite value" in note for note in footnotes(table))


def test_clicks_have_both_their_metrics(tmp_path: Path) -> None:
    for search, auc, logloss in (("none", 0.8, 0.5), ("dnis", 0.7, 0.4)):
        metrics = {"select/auc": auc, "select/logloss": logloss, "test/auc": auc, "test/logloss": logloss}
        make_run(tmp_path, metrics, search=search, task="ctr")
    (table,) = tables(tmp_path)
    assert table.metrics == ("auc", "logloss")
    assert line(table, "Plain table")[["auc_mark", "logloss_mark"]].tolist() == ["best", "second"]


def test_sizes_are_those_of_the_smallest_layout_and_of_the_authors_file(tmp_path: Path) -> None:
    big = part(rating(0.5), 2**20, coo_npz_bytes=3 * 2**20)
    make_run(tmp_path, rating(0.5), unpruned=big)
    (table,) = tables(tmp_path)
    ((_, cells),) = grid(table).rows
    assert [cell.text for cell in cells[1:4]] == ["4.00", "1,048,576", "3.00"]


def test_labels_cannot_break_the_markdown(tmp_path: Path) -> None:
    make_run(tmp_path, rating(0.5), config={"data.path": "a|b"})
    make_run(tmp_path, rating(0.6), config={"data.path": "<b>"})
    (table,) = tables(tmp_path)
    lines = [text for text in markdown(table).splitlines() if text.startswith("|")]
    assert len({text.replace("\\|", "").count("|") for text in lines}) == 1
    assert "<b>" not in markdown(table)


def test_select_can_be_shown_in_place_of_test(tmp_path: Path) -> None:
    make_run(tmp_path, rating(0.5, select=0.7), seed=0)
    make_run(tmp_path, rating(0.9, select=0.8), seed=1)
    (table,) = make_tables(settle(collect([tmp_path]).runs), on="select")
    assert line(table, "DNIS (unpruned)")["mse_mean"] == pytest.approx(0.75)
    assert "on the 5 select rows of the three_way split" in caption(table)


def test_what_a_method_draws_by_its_seed_or_does_not_read_tells_nothing_apart(tmp_path: Path) -> None:
    for seed in range(3):
        more = {"config": {"search.method": {"seed": seed, "trial_count": 6}, "search.first": seed, "sweep.jobs": seed}}
        make_run(tmp_path, rating(0.5 + seed), search="random", seed=seed, **more)
    make_run(tmp_path, rating(9.0), search="random", seed=0, config={"search.method": {"seed": 0, "trial_count": 16}})
    (table,) = tables(tmp_path)
    assert sorted(table.summary["n"]) == [1, 3], "six draws and sixteen are two methods, three seeds are one"
