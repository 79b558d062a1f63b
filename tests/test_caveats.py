"""What the numbers of a run are to be read with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dnis_lightning.caveats import (
    SLOW,
    beaten_by_smaller,
    beyond_their_loss,
    beyond_their_size,
    no_better_than_biases,
    unfinished,
)
from dnis_lightning.search.budget import at_threshold, parse_budget
from tests.command import TINY, dnis, result_of


def table(mse: float, name: str = "") -> dict[str, Any]:
    return {"budget": name, "metrics": {"select/mse": mse}}


def test_tables_that_are_no_better_than_none_are_named() -> None:
    def told(whole: float, cut: float, l2: float) -> list[str]:
        biases = table(0.85693)
        return list(no_better_than_biases(table(whole), [table(cut, "10%")], biases, "mse", l2))

    (warning,) = told(0.9, 0.85693, 1.5)
    found, _, advice = warning.partition("; ")
    assert found == "no better on select than biases alone (select/mse 0.85693): the whole table, 10%"
    assert advice.startswith("take a model.l2 a few times as large as 1.5 where the table is overfitted")
    assert "): 10%; take a model.l2 above 0, or search.base_dim=0" in told(0.8, 0.9, 0.0)[0]
    assert not told(0.8, 0.8, 0.0)
    assert not list(no_better_than_biases(table(9), [], None, "mse", 0.0)), "where there are no biases"
    assert (
        told(0.8, 9.0, 1.5)[0].partition("; ")[2].startswith("take a smaller optimizer.lr, since training has diverged")
    )


def test_a_cut_is_told_of_a_smaller_one_that_is_better() -> None:
    def told(*errors: float) -> list[str]:
        sizes = (4000, 2000, 1000)
        cuts = [table(error, f"{size}") | {"bytes": size} for error, size in zip(errors, sizes, strict=True)]
        return list(beaten_by_smaller(cuts, "mse", 0.001))

    assert told(0.8, 0.79, 0.78) == [
        "4000: worse on select than 1000 (select/mse 0.80000 against 0.78000), which is smaller; take 1000",
        "2000: worse on select than 1000 (select/mse 0.79000 against 0.78000), which is smaller; take 1000",
    ]
    assert told(0.8, 0.78, 0.79)[1:] == [], "the best of the smaller ones is named, to the larger one alone"
    assert "take 2000" in told(0.8, 0.78, 0.79)[0]
    assert not told(0.7801, 0.78, 0.79), "within the margin"
    assert not told(0.7, 0.8, 0.9)


def test_a_file_that_is_larger_than_its_budget_is_warned_of() -> None:
    names = ("1KiB", "bytes:50%", "10%")
    cuts = [{"budget": name, "kept": 1, "bytes": 2001} for name in names]
    told = "its file has 2,001 bytes, more than that; take a larger budget"
    warnings = list(beyond_their_size(cuts, map(parse_budget, names), 1000))
    assert warnings == [f"1KiB: {told}", f"bytes:50%: {told}"]


def test_what_keeps_more_than_nothing_is_told_by_what_was_asked_for() -> None:
    names = ("1%", "loss:5%", "eps:10")
    cuts = [{"budget": name, "kept": 0, "bytes": 8} for name in names]
    told = [
        one.partition("; ")[2]
        for one in beyond_their_size(cuts, [*map(parse_budget, names[:2]), at_threshold(10)], 1000)
    ]
    assert told == [
        "take a larger budget",
        "it is within that loss without one, and search.base_dim=0 has none",
        "take a smaller threshold",
    ]


def test_a_cut_that_is_beyond_its_loss_is_warned_of() -> None:
    names = ("loss:1%", "loss:5%", "10%")
    cuts = [table(1.02, name) for name in names]
    for cut, within in zip(cuts[:2], (False, True), strict=True):
        cut["within_loss"] = within
    (warning,) = beyond_their_loss(cuts)
    assert warning.startswith("loss:1%: no table was found within that loss; take a larger one")


def told_of(costs: Sequence[float], first: int, metric: str = "mse") -> list[str]:
    """Of a training whose learning rate falls after so many epochs; another has one epoch."""
    rows = [
        {"phase": "uniform/fit", f"select/{metric}": value, "lr": 0.001 if epoch < first else 0.0005}
        for epoch, value in enumerate(costs)
    ]
    other = {"phase": "fine_tune/10%", f"select/{metric}": 1.0, "lr": 0.001}
    return list(unfinished([*rows, other], "uniform/fit", metric))


FALLING = [1 / (1 + epoch) for epoch in range(SLOW + 10)]


def test_a_training_that_ends_at_its_best_is_warned_of() -> None:
    (warning,) = told_of(FALLING[:20], 20)
    assert warning.startswith("uniform/fit: select was at its best in the last of 20 epochs; take more epochs")
    assert told_of([-value for value in FALLING[:20]], 20, "auc"), "whichever way a metric is better"
    assert not told_of([*FALLING[:20], 2.0], 21), "it had stopped to get better"
    assert not told_of(FALLING[:20], 15), "the learning rate had fallen"
    assert not told_of([1.0], 1), "one epoch has none before it"
    assert not told_of([1.0] * 20, 20), "no epoch was better than another"
    assert not told_of([], 0), "its rows are in another folder"


def test_a_training_that_is_slow_is_warned_of() -> None:
    (warning,) = told_of(FALLING, SLOW)
    assert warning.startswith(f"uniform/fit: select got better, little by little, for {SLOW} epochs; compare with an")
    assert not told_of(FALLING, SLOW - 1)
    assert not told_of([value + (0.5 if epoch % 4 == 0 else 0) for epoch, value in enumerate(FALLING)], SLOW), "noise"


def test_a_run_that_ends_too_early_says_so(tmp_path: Path) -> None:
    done = dnis(tmp_path, *TINY, "search=none", "search.budget=null", "trainer.max_epochs=2")
    _, result = result_of(done)
    warning = "uniform/fit: select was at its best in the last of 2 epochs"
    assert [one for one in result["warnings"] if str(one).startswith(warning)]
    assert warning in done.stderr


def test_what_comes_before_the_last_training_is_not_warned_of(tmp_path: Path) -> None:
    _, result = result_of(dnis(tmp_path, *TINY, "search=dnis", "trainer.max_epochs=2"))
    named = [str(one).split(":", maxsplit=1)[0] for one in result["warnings"] if "in the last of 2" in str(one)]
    assert named == ["dnis/fit"]
