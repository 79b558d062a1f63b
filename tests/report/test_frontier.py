"""The picture of metric against size: what is joined, where the front runs, and that it draws whatever there is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dnis_lightning.report import figures
from dnis_lightning.report.collect import collect
from dnis_lightning.report.frontier import frontier, pareto
from dnis_lightning.report.points import Picture, pictures
from dnis_lightning.report.settle import settle
from dnis_lightning.report.tables import make_tables
from tests.report.runs import make_run, part, rating


def drawn(folder: Path) -> list[Picture]:
    return pictures(make_tables(settle(collect([folder]).runs)))


def series(picture: Picture) -> dict[str, list[str]]:
    return {str(name): part["name"].tolist() for name, part in picture.points.groupby("series", sort=False)}


@pytest.mark.parametrize("larger", [False, True])
def test_the_front_is_what_nothing_as_small_beats(larger: bool) -> None:
    rng = np.random.default_rng(0)
    sizes, means = rng.integers(1, 20, 60).astype(float), rng.integers(0, 30, 60).astype(float)
    front = pareto(sizes, means, larger)
    worth = means if larger else -means
    for point in range(60):
        beaten = any(
            sizes[o] <= sizes[point]
            and worth[o] >= worth[point]
            and (sizes[o], means[o]) != (sizes[point], means[point])
            for o in range(60)
        )
        alike = [o for o in front if (sizes[o], means[o]) == (sizes[point], means[point])]
        assert len(alike) == (not beaten)
    assert np.all(np.diff(sizes[front]) > 0)


def test_cuts_are_joined_to_their_model_and_widths_to_each_other(tmp_path: Path) -> None:
    cuts = [part(rating(0.8), 500, budget="cr:2"), part(rating(0.9), 200, budget="cr:5")]
    make_run(tmp_path, rating(0.5), pruned=cuts)
    for width in (4, 8):
        make_run(tmp_path, rating(0.6), search="none", base_dim=width, pruned=cuts if width == 8 else [])
    (picture,) = drawn(tmp_path)
    assert series(picture) == {
        "Plain table": ["K = 4", "K = 8"],
        "Plain table, cut, K = 8": ["unpruned", "cr:2", "cr:5"],
        "DNIS": ["unpruned", "cr:2", "cr:5"],
    }


def test_widths_of_mde_are_joined_too(tmp_path: Path) -> None:
    for share in (0.25, 0.5):
        config = {"search.method": {"base_dims": [share], "temperatures": [0.1]}}
        make_run(tmp_path, rating(share), search="mde", base_dim=64, config=config)
    (picture,) = drawn(tmp_path)
    assert series(picture) == {"MDE": ["base_dims = [0.25]", "base_dims = [0.5]"]}


@pytest.mark.parametrize("name", ["method", "a method with a name that says all that sets it apart from others"])
def test_the_legend_stays_inside(name: str) -> None:
    columns = {"bytes": [1e3, 2e3], "series": [f"{name} 1", f"{name} 2"], "name": ["x", "x"], "mse_mean": [0.5, 0.6]}
    figure = frontier(pd.DataFrame(columns | {"mse_std": [np.nan, np.nan]}), ("mse",), "all")
    figure.canvas.draw()
    (legend,) = figure.legends
    assert legend.get_window_extent().x1 <= figure.bbox.x1


def test_splits_that_share_test_rows_share_a_picture(tmp_path: Path) -> None:
    make_run(tmp_path, rating(0.5))
    make_run(tmp_path, rating(0.6), split="paper", features=99)
    make_run(tmp_path, rating(0.7), split="time")
    names = [list(series(picture)) for picture in drawn(tmp_path)]
    assert names == [["DNIS, paper split", "DNIS, three_way split"], ["DNIS"]]


def test_what_has_no_test_metrics_is_not_drawn(tmp_path: Path) -> None:
    make_run(tmp_path, {"select/mse": 0.5}, search="grid", trial=0)
    assert drawn(tmp_path) == []


@pytest.mark.parametrize(
    ("sizes", "means", "spreads"),
    [
        ([1000.0], [0.5], [np.nan]),
        ([0.0], [0.5], [0.1]),
        ([0.0, 0.0], [0.5, 0.6], [0.1, 0.1]),
        ([0.0, 1e3, 1e9], [0.5, 0.6, 0.4], [0.1, np.nan, 0.0]),
        ([1e6, 1e6], [0.5, np.nan], [0.1, np.nan]),
        (list(np.geomspace(1, 1e9, 40)), list(np.linspace(1, 0, 40)), [0.01] * 40),
    ],
    ids=["one point", "no table", "no tables", "no table and others", "one without a mean", "many"],
)
@pytest.mark.parametrize("metrics", [("mse",), ("auc", "logloss")])
def test_it_draws_whatever_there_is(
    sizes: Sequence[float], means: Sequence[float], spreads: Sequence[float], metrics: Sequence[str], tmp_path: Path
) -> None:
    columns = {"bytes": sizes, "series": [f"method {i}" for i in range(len(sizes))], "name": ["x"] * len(sizes)}
    columns |= {f"{metric}_mean": means for metric in metrics} | {f"{metric}_std": spreads for metric in metrics}
    figure = frontier(pd.DataFrame(columns), metrics, "all")
    figures.save(figure, tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    ticks = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert ("0" in ticks) == (0.0 in sizes)
    assert len(figure.axes) == len(metrics)
