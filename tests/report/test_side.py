"""What stands under a table of runs: means over seeds of what each run says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dnis_lightning.report.collect import collect
from dnis_lightning.report.layout import markdown
from dnis_lightning.report.settle import settle
from dnis_lightning.report.side import MOST_BLOCKS, side_tables
from dnis_lightning.report.tables import Table, make_tables
from dnis_lightning.report.write import write
from tests.report.runs import make_run, part


def clicks(value: float) -> dict[str, float]:
    return {f"{split}/{metric}": value for split in ("select", "test") for metric in ("auc", "logloss")}


def interval(middle: float, half: float = 0.01) -> dict[str, float]:
    return {"difference": middle, "low": middle - half, "high": middle + half}


def diagnostics(growth: float | None) -> dict[str, Any]:
    blocks = [{"block": b + 1, "data_share": 0.9 - b / 10, "signal": 5.0 + b, "dead": b == 1} for b in range(2)]
    gap = None if growth is None else {"first": 0.0, "last": 0.1, "growth": growth}
    return {"blocks": blocks, "drift": {"first": 0.02, "last": 0.01}, "gap": gap, "warnings": []}


def two_seeds(folder: Path, growth: float | None = 0.02) -> Table:
    for seed in range(2):
        told = {"predicted": 0.25, "observed": 0.26 + seed / 100, "error": 0.02, "bins": []}
        told_apart = {"test/auc": interval(-0.001), "test/logloss": interval(0.001 + seed / 100)}
        cut = part(clicks(0.7), 500, budget="cr:2", differences=told_apart, calibration=told)
        keys = {"task": "ctr", "seed": seed, "pruned": [cut], "diagnostics": diagnostics(growth)}
        make_run(folder, clicks(0.8), **keys)
    (table,) = make_tables(settle(collect([folder]).runs))
    return table


def test_four_tables_of_means_over_seeds(tmp_path: Path) -> None:
    against, calibration, search, by_block = side_tables(two_seeds(tmp_path))
    assert against.columns == ("AUC", "Logloss")
    assert against.rows == (("DNIS (cr:2)", ("-0.0010 (-0.0110 to +0.0090)", "+0.0060 (-0.0040 to +0.0160)")),)
    assert calibration.rows == (("DNIS (cr:2)", ("0.2500", "0.2650", "0.0200")),)
    assert search.rows == (("DNIS (unpruned)", ("0.80", "5.0", "1.0", "0.0200", "0.0100", "2.0%")),)
    assert "how the searches went" in search.heading
    assert by_block.columns == ("block 1", "block 2")
    assert by_block.rows == (("DNIS (unpruned)", ("0.90 · 5.0", "0.80 · 6.0")),)


def test_what_a_run_does_not_say_is_left_empty_or_out(tmp_path: Path) -> None:
    *_, search, _ = side_tables(two_seeds(tmp_path / "a", growth=None))
    assert search.rows[0][1][-1] == ""
    make_run(tmp_path / "b", clicks(0.8), task="ctr", search="none", diagnostics=None)
    (table,) = make_tables(settle(collect([tmp_path / "b"]).runs))
    assert side_tables(table) == []


def test_of_many_blocks_the_worst_alone_are_told(tmp_path: Path) -> None:
    told = diagnostics(0.02)
    told["blocks"] = told["blocks"] * (MOST_BLOCKS // 2) + told["blocks"][:1]
    make_run(tmp_path, clicks(0.8), task="ctr", diagnostics=told)
    (table,) = make_tables(settle(collect([tmp_path]).runs))
    (search,) = side_tables(table)
    assert "how the searches went" in search.heading


def test_a_difference_without_an_interval_stands_alone(tmp_path: Path) -> None:
    lonely = {"test/mse": {"difference": 0.1, "low": None, "high": None}}
    cut = part({"select/mse": 1.0, "test/mse": 1.0}, 500, budget="cr:2", differences=lonely)
    make_run(tmp_path, {"select/mse": 1.0, "test/mse": 1.0}, pruned=[cut])
    (table,) = make_tables(settle(collect([tmp_path]).runs))
    (against,) = side_tables(table)
    assert against.rows == (("DNIS (cr:2)", ("+0.1000",)),)


@pytest.mark.parametrize("on", ["test", "select"])
def test_report_has_them(on: Any, tmp_path: Path) -> None:
    two_seeds(tmp_path / "runs")
    collected = collect([tmp_path / "runs"])
    settled = settle(collected.runs)
    tables = make_tables(settled, on=on)
    found = write(tmp_path / "to", settled, tables, collected.skipped)
    assert "<h3>mf, how the searches went</h3>" in found.read_text().replace("MF", "mf")
    assert ("calibration on test" in markdown(tables[0])) == (on == "test")
    runs = pd.read_csv(found.with_name("runs.csv"))
    assert runs["search_signal"].tolist() == [5.0] * 4
    assert runs["difference_test/auc"].notna().sum() == 2
