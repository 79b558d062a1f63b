"""Gains of one search over another, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dnis_lightning.report.collect import collect
from dnis_lightning.report.gains import pairs
from dnis_lightning.report.layout import footnotes, grid
from dnis_lightning.report.settle import settle
from dnis_lightning.report.tables import Table, make_tables
from tests.report.runs import make_run, part

TOPS = (1, 5)


def ranking(recall: float, mrr: float, ndcg: float) -> dict[str, float | None]:
    """The metrics of a top-k model: at k = 5 twice what they are at 1; and some that a table leaves out."""
    values = {"recall": recall, "mrr": mrr, "ndcg": ndcg, "hr": 0.9, "precision": 0.1}
    metrics = {f"{name}@{k}": value * (2 if k == 5 else 1) for name, value in values.items() for k in TOPS}
    metrics |= {f"{name}@{k}_of_100": 0.5 for name in ("hr", "ndcg", "map") for k in TOPS}
    return {f"{split}/{name}": value for split in ("select", "test") for name, value in metrics.items()}


def made(
    folder: Path, search: str, unpruned: tuple[int, dict[str, Any]], *cuts: tuple[int, dict[str, Any]], **keys: Any
) -> None:
    pruned = [part(metrics, kept, budget=f"cr:{number}") for number, (kept, metrics) in enumerate(cuts)]
    kept, metrics = unpruned
    make_run(folder, metrics, search=search, task="topk", unpruned=part(metrics, kept), pruned=pruned, **keys)


def table_of(folder: Path) -> Table:
    (table,) = make_tables(settle(collect([folder]).runs))
    return table


def test_cuts_to_one_budget_at_one_width_are_held_against_each_other(tmp_path: Path) -> None:
    made(
        tmp_path, "dnis", (1000, ranking(0.2, 0.1, 0.4)), (500, ranking(0.18, 0.11, 0.4)), (250, ranking(0.1, 0.1, 0.1))
    )
    made(tmp_path, "nis_me", (1000, ranking(0.9, 0.9, 0.9)), (300, ranking(0.15, 0.1, 0.32)))
    made(tmp_path, "nis_me", (900, ranking(0.1, 0.1, 0.1)), (500, ranking(0.1, 0.1, 0.1)), base_dim=20)
    (pair,) = pairs(table_of(tmp_path), "nis_me")
    assert (pair.model, pair.base_dim, pair.cut) == ("mf", 10, "cr:0")
    expected = {"recall": 0.18 / 0.15 - 1, "mrr": 0.1, "ndcg": 0.25}
    assert pair.kept == pytest.approx(500 / 300)
    for name, gain in expected.items():
        assert [pair.gains[f"{name}@{k}"] for k in TOPS] == pytest.approx([gain, gain])


def test_the_mean_gains_are_told_below_a_table_of_top_k_recommendation(tmp_path: Path) -> None:
    made(tmp_path, "dnis", (1000, {}), (500, ranking(0.2, 0.1, 0.4)), (250, ranking(0.1, 0.1, 0.3)))
    made(tmp_path, "nis_me", (1000, {}), (400, ranking(0.1, 0.1, 0.2)), (250, ranking(0.1, 0.2, 0.2)))
    (note,) = (note for note in footnotes(table_of(tmp_path)) if "gains" in note)
    assert note.startswith("DNIS over NIS-ME, means of the relative gains at all k, widths and budgets")
    assert "(MF, K = 10, cr:0; MF, K = 10, cr:1): Recall +50.0%, MRR -25.0%, NDCG +75.0%; " in note
    assert note.endswith("with 1.12 times the entries.")


def test_a_metric_of_nothing_is_no_measure_of_a_gain(tmp_path: Path) -> None:
    made(tmp_path, "dnis", (1000, {}), (500, ranking(0.2, 0.1, 0.4)))
    made(tmp_path, "nis_me", (1000, {}), (500, ranking(0.0, 0.1, 0.2)))
    (note,) = (note for note in footnotes(table_of(tmp_path)) if "gains" in note)
    assert "cr:0): MRR +0.0%, NDCG +100.0%; with 1.00 times" in note


def test_other_tasks_have_no_such_line(tmp_path: Path) -> None:
    for search in ("dnis", "grid"):
        make_run(tmp_path, {"select/mse": 0.5, "test/mse": 0.5}, search=search)
    assert footnotes(table_of(tmp_path)) == []


def test_a_table_shows_what_the_paper_and_ncf_do(tmp_path: Path) -> None:
    made(tmp_path, "dnis", (1000, ranking(0.2, 0.1, 0.4)))
    made(tmp_path, "none", (1000, ranking(0.2, 0.1, 0.4)))
    table = table_of(tmp_path)
    shown = [column for column in grid(table).columns if "@" in column]
    assert [column for column in shown if not column.startswith("Δ")] == [
        *("Recall@1", "Recall@5", "MRR@1", "MRR@5", "NDCG@1", "NDCG@5"),
        *("HR@5 of 100", "NDCG@5 of 100"),
    ]
    lengths = {len(cells) for _, cells in grid(table).rows}
    assert lengths == {len(grid(table).columns)}
