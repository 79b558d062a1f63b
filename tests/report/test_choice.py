"""The best of several values of a key, by the select split."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dnis_lightning.errors import UserError
from dnis_lightning.report.choice import choose
from dnis_lightning.report.collect import collect
from dnis_lightning.report.points import pictures
from dnis_lightning.report.settle import Settled, settle
from dnis_lightning.report.tables import make_tables
from tests.report.runs import make_run, part, rating


def chosen(folder: Path, *keys: str) -> Settled:
    settled = settle(collect([folder]).runs)
    for key in keys:
        settled = choose(settled, key)
    return settled


def shown(settled: Settled) -> dict[str, float]:
    """The rows of the one table, and what they have on test."""
    (table,) = make_tables(settled)
    return dict(zip(table.summary["row"], table.summary["mse_mean"], strict=True))


def test_the_mean_over_seeds_on_select_chooses_for_each_width(tmp_path: Path) -> None:
    on_select = {(8, 0.1): (0.5, 0.6), (8, 0.2): (0.4, 0.8), (16, 0.1): (0.5, 0.5), (16, 0.2): (0.3, 0.4)}
    for (width, l2), values in on_select.items():
        for seed, select in enumerate(values):
            make_run(tmp_path, rating(1 - select, select), seed=seed, search="none", base_dim=width, l2=l2)
    settled = chosen(tmp_path, "model.l2")
    assert shown(settled) == pytest.approx({"Plain table, K = 8": 0.45, "Plain table, K = 16": 0.65})
    used = settled.frame.groupby(["base_dim", "l2"])["used"].unique().map(list).to_dict()
    other = ["no, another model.l2 is better on select"]
    assert used == {(8, 0.1): ["yes"], (8, 0.2): other, (16, 0.1): other, (16, 0.2): ["yes"]}
    assert settled.notes[-1] == ("model.l2 was chosen for each row, by the mean over its seeds on select, of 0.1, 0.2.")


def test_each_cut_chooses_for_itself_and_stays_joined_to_its_model(tmp_path: Path) -> None:
    for l2, (whole, cut) in {0.1: (0.5, 0.7), 0.2: (0.6, 0.65)}.items():
        cuts = [part(rating(cut, cut), 100, budget="10%")]
        make_run(tmp_path, rating(whole, whole), l2=l2, pruned=cuts)
    settled = chosen(tmp_path, "model.l2")
    assert shown(settled) == pytest.approx({"DNIS (unpruned)": 0.5, "DNIS (10%)": 0.65})
    (picture,) = pictures(make_tables(settled))
    assert picture.points["series"].tolist() == ["DNIS", "DNIS"]


def test_of_what_grows_the_largest_is_chosen_and_what_diverged_never(tmp_path: Path) -> None:
    for l2, ndcg in {0.1: 0.3, 0.2: 0.4, 0.4: None}.items():
        make_run(tmp_path, {"select/ndcg@10": ndcg, "test/ndcg@10": ndcg}, l2=l2, task="topk")
    settled = chosen(tmp_path, "model.l2")
    assert settled.frame.set_index("l2")["used"].eq("yes").to_dict() == {0.1: False, 0.2: True, 0.4: False}


def test_what_a_key_is_passed_on_to_tells_nothing_apart(tmp_path: Path) -> None:
    for lr, select in {0.001: 0.5, 0.01: 0.4}.items():
        config = {"optimizer.lr": lr, "optimizer.node": {"lr": lr, "eps": 1e-8}}
        make_run(tmp_path, rating(select, select), config=config)
    assert len(shown(chosen(tmp_path))) == 2
    assert shown(chosen(tmp_path, "optimizer.lr")) == pytest.approx({"DNIS (unpruned)": 0.4})


def test_several_keys_are_chosen_together(tmp_path: Path) -> None:
    for l2, lr, select in ((0.1, 1, 0.5), (0.1, 2, 0.4), (0.2, 1, 0.3), (0.2, 2, math.nan)):
        value = None if math.isnan(select) else select
        make_run(tmp_path, rating(value, value), l2=l2, config={"optimizer.lr": lr})  # type: ignore[arg-type]
    assert shown(chosen(tmp_path, "model.l2", "optimizer.lr")) == pytest.approx({"DNIS (unpruned)": 0.3})


def test_budgets_are_rows_already(tmp_path: Path) -> None:
    make_run(tmp_path, rating(0.7))
    with pytest.raises(UserError, match=r"--choose search\.budget: what a run cuts to is a row of its own already"):
        chosen(tmp_path, "search.budget")


def test_a_key_that_no_run_has_is_named(tmp_path: Path) -> None:
    make_run(tmp_path, rating(0.5))
    with pytest.raises(UserError, match=r"--choose model\.l3: no run has this key; is it misspelt\?"):
        chosen(tmp_path, "model.l3")


def test_only_seeds_that_all_have_choose(tmp_path: Path) -> None:
    for seed, select in enumerate((0.65, 0.67, 0.70)):
        make_run(tmp_path, rating(0.7, select), seed=seed, search="none", l2=0.0)
    make_run(tmp_path, rating(0.8, 0.66), seed=0, search="none", l2=0.1)
    frame = chosen(tmp_path, "model.l2").frame
    used = frame[frame["used"] == "yes"]
    assert sorted(used["seed"]) == [0, 1, 2], "0.65 against 0.66 with the seed that both have"
    assert set(used["l2"]) == {0.0}
