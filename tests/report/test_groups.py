"""Who pays, over runs: means over seeds, what is sure, and where it is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dnis_lightning.report.collect import collect
from dnis_lightning.report.figures import save
from dnis_lightning.report.groups import group_tables, long_form
from dnis_lightning.report.layout import markdown
from dnis_lightning.report.payers import payers, reliability
from dnis_lightning.report.settle import settle
from dnis_lightning.report.tables import Table, make_tables
from dnis_lightning.report.write import write
from tests.report.runs import make_run, part, rating


def group(by: str, name: str, least: int, most: int, value: float, **cuts: tuple[float, float]) -> dict[str, Any]:
    """A group of five rows; cuts: difference and half of the interval."""
    told = {
        cut.replace("_", ":"): {
            "value": value + change,
            "difference": change,
            "low": change - half,
            "high": change + half,
        }
        for cut, (change, half) in cuts.items()
    }
    return {"by": by, "name": name, "least": least, "most": most, "rows": 5, "unpruned": {"value": value}, "cuts": told}


def who_pays(shift: float = 0.0, blocks: int = 2, half: float = 0.05) -> dict[str, Any]:
    lines = [group("all", "all rows", 0, 90, 0.5, cr_2=(0.01 + shift, half))]
    lines += [group("block", f"block {b + 1}", 10, 90 - b, 0.6, cr_2=(shift, 0.1)) for b in range(blocks)]
    lines += [group("rarest", "10–99", 10, 99, 0.4, cr_2=(0.2 + shift, 0.1))]
    lines += [group("rarest", "no row", 0, 0, 1.0, cr_2=(0.3 + shift, 0.1))]
    return {"metric": "mse", "groups": lines}


def two_seeds(folder: Path, *, blocks: tuple[int, int] = (2, 2)) -> Table:
    for seed in range(2):
        cut = part(rating(0.9), 500, budget="cr:2")
        make_run(folder, rating(0.7), seed=seed, pruned=[cut], who_pays=who_pays(0.02 * seed, blocks[seed]))
    (table,) = make_tables(settle(collect([folder]).runs))
    return table


def test_cells_are_means_over_seeds_and_starred_where_every_run_is_sure(tmp_path: Path) -> None:
    rarest, block = group_tables(two_seeds(tmp_path))
    assert rarest.columns == ("all rows (5 rows)", "no row (5 rows)", "10–99 (5 rows)")
    assert dict(rarest.rows) == {
        "DNIS (unpruned)": ("0.5000", "1.0000", "0.4000"),
        "DNIS (cr:2)": ("+0.0200", "+0.3100*", "+0.2100*"),
    }
    assert block.columns == ("all rows (5 rows)", "block 1: 10–90 (5 rows)", "block 2: 10–89 (5 rows)")
    assert "MSE of the test rows by the blocks" in block.heading


def test_blocks_that_differ_have_no_table(tmp_path: Path) -> None:
    (rarest,) = group_tables(two_seeds(tmp_path, blocks=(2, 3)))
    assert "rarest" in rarest.heading


def test_the_long_form_has_every_run_and_group(tmp_path: Path) -> None:
    frame = long_form(two_seeds(tmp_path))
    assert len(frame) == 2 * 2 * 5
    of_cut = frame[(frame["cut"] == "cr:2") & (frame["seed"] == 1) & (frame["name"] == "10–99")]
    assert of_cut[["value", "difference", "low", "high"]].to_numpy()[0] == pytest.approx([0.62, 0.22, 0.12, 0.32])
    assert frame[frame["cut"] == "unpruned"]["difference"].isna().all()


def test_runs_of_earlier_versions_have_none(tmp_path: Path) -> None:
    make_run(tmp_path, rating(0.7))
    (table,) = make_tables(settle(collect([tmp_path]).runs))
    assert group_tables(table) == []
    assert "Who pays" not in markdown(table)


def test_tables_on_select_have_none(tmp_path: Path) -> None:
    two_seeds(tmp_path)
    (table,) = make_tables(settle(collect([tmp_path]).runs), on="select")
    assert group_tables(table) == []


def test_report_has_them_as_text_page_and_csv(tmp_path: Path) -> None:
    two_seeds(tmp_path / "runs")
    collected = collect([tmp_path / "runs"])
    settled = settle(collected.runs)
    found = write(tmp_path / "to", settled, make_tables(settled), collected.skipped)
    assert "<h3>Who pays: MF, MSE of the test rows by the rarest feature in them</h3>" in found.read_text()
    assert "+0.3100*" in found.read_text()
    written = pd.read_csv(found.with_name("who_pays_1_movielens-1m_rating.csv"))
    assert set(written["by"]) == {"all", "block", "rarest"}
    assert "| DNIS (cr:2)" in found.with_name("table_1_movielens-1m_rating.md").read_text().split("Who pays")[1]
    assert "groups" not in pd.read_csv(found.with_name("runs.csv"))


@pytest.mark.parametrize("cuts", [0, 1, 9])
@pytest.mark.parametrize("value", [0.5, None])
def test_pictures_of_who_pays(cuts: int, value: float | None, tmp_path: Path) -> None:
    told = who_pays(blocks=12)
    for line in told["groups"]:
        one = line["cuts"].pop("cr:2") | ({} if value else dict.fromkeys(("value", "low", "high")))
        line["cuts"] = {f"cr:{number}": one for number in range(cuts)}
        line["unpruned"]["value"] = value
    figure = payers(told)
    assert len(figure.axes) == (4 if cuts else 2)
    save(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_picture_of_calibration_has_a_line_for_each_table(tmp_path: Path) -> None:
    bins = [{"rows": 10, "predicted": p, "observed": p + 0.01} for p in np.linspace(0.1, 0.5, 10)]
    told = {"predicted": 0.3, "observed": 0.31, "error": 0.01, "bins": bins}
    figure = reliability({"unpruned": told, "cr:2": told, "cr:4": told})
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels[1] == "cr:2: error 0.0100, mean 0.3000 of 0.3100"
    assert len(labels) == 3
