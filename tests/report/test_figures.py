"""Every figure draws at every size, and shows what it was given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dnis_lightning.report import figures


def png(figure: Figure, folder: Path) -> bytes:
    figures.save(figure, folder / "figures" / "one.png")
    assert [path.name for path in (folder / "figures").iterdir()] == ["one.png"]  # nothing half-made beside it
    return (folder / "figures" / "one.png").read_bytes()


def table(*phases: tuple[str, int], metric: str = "mse") -> pd.DataFrame:
    names = [name for name, epochs in phases for _ in range(epochs)]
    values = 1 / (1 + np.arange(len(names)))
    return pd.DataFrame(
        {"phase": names, "epoch": 1 + np.arange(len(names)), "train/loss": values, f"select/{metric}": values}
    )


def labels(figure: Figure) -> list[str]:
    legends = [axes.get_legend() for axes in figure.axes]
    return [text.get_text() for legend in legends if legend is not None for text in legend.get_texts()]


def test_learning_curves_name_the_phases_and_the_best_epoch(tmp_path: Path) -> None:
    metrics = table(("warm_start", 3), ("search", 4), ("fine_tune", 3))
    metrics.loc[3:6, "search/loss"] = 0.5
    metrics.loc[4, "select/mse"] = 0.01
    figure = figures.learning_curves(metrics, "mse")
    assert [text.get_text() for text in figure.axes[0].texts] == ["warm_start", "search", "fine_tune"]
    assert labels(figure) == ["select/mse", "best: 0.0100\n(epoch 5)", "train/loss", "search/loss"]
    assert png(figure, tmp_path).startswith(b"\x89PNG")


@pytest.mark.parametrize(("metric", "epoch"), [("logloss", 6), ("auc", 1), ("ndcg@10", 1)])
def test_best_is_the_least_loss_but_the_largest_score(metric: str, epoch: int) -> None:
    figure = figures.learning_curves(table(("search", 6), metric=metric), metric)
    assert f"(epoch {epoch})" in labels(figure)[1]


@pytest.mark.parametrize(
    "metrics",
    [
        table(("search", 1)),
        table(("search", 1)).drop(columns="train/loss"),
        table(("search", 3)).assign(**{"select/mse": np.nan}),
        table(("search", 3)).assign(**{"select/mse": [np.nan, 1.0, np.nan]}),
        table(("search", 3)).assign(**{"select/mse": [1.0, np.inf, 0.5]}),
        table(*[(f"dim={4 * i}/fit", 1 + i % 3) for i in range(60)]),
    ],
    ids=["one row", "no losses", "all NaN", "one value", "infinite", "many phases"],
)
def test_learning_curves_draw_what_there_is(metrics: pd.DataFrame, tmp_path: Path) -> None:
    assert png(figures.learning_curves(metrics, "mse"), tmp_path)


def test_learning_curves_ask_for_the_metric() -> None:
    with pytest.raises(KeyError, match="select/auc"):
        figures.learning_curves(table(("search", 2)), "auc")


@pytest.mark.parametrize(("epochs", "blocks", "dims"), [(5, 10, 8), (1, 10, 8), (1, 1, 1), (4, 50, 3), (3, 1, 4)])
def test_gates_over_time_have_a_line_a_block(epochs: int, blocks: int, dims: int, tmp_path: Path) -> None:
    history = np.random.default_rng(0).uniform(size=(epochs, blocks, dims))
    figure = figures.gates_over_time(history, np.arange(7, 7 + epochs))
    lines = {int(str(line.get_label())): np.asarray(line.get_ydata()) for line in figure.axes[0].lines}
    assert sorted(lines) == list(range(1, blocks + 1))
    np.testing.assert_allclose(lines[blocks], history[:, blocks - 1].mean(1))
    assert (len(figure.axes) == 2) == (blocks > 10)  # a colour bar in place of a legend
    assert png(figure, tmp_path)


@pytest.mark.parametrize(("blocks", "dims"), [(10, 64), (1, 64), (50, 16), (10, 1), (1, 1)])
@pytest.mark.parametrize("closed", [False, True])
def test_gates_distribution_shows_every_gate(blocks: int, dims: int, closed: bool, tmp_path: Path) -> None:
    gates = np.zeros((blocks, dims)) if closed else np.random.default_rng(0).uniform(size=(blocks, dims))
    figure = figures.gates_distribution(gates)
    points = np.asarray(figure.axes[0].collections[0].get_offsets())
    np.testing.assert_allclose(points[:, 1], gates.ravel())
    np.testing.assert_array_equal(np.round(points[:, 0]), np.repeat(np.arange(1, blocks + 1), dims))
    assert png(figure, tmp_path)


@pytest.mark.parametrize(("features", "base_dim"), [(10, 16), (300, 64), (20_000, 64), (5000, 512), (10, 0)])
def test_dims_against_frequency_counts_every_feature(features: int, base_dim: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frequency = np.floor(rng.pareto(0.8, features)).astype(np.int64)
    dims = rng.integers(0, base_dim + 1, features)
    figure = figures.dims_against_frequency(dims, frequency, base_dim, "Kept dimensions at cr:2")
    _, above, right, *_ = figure.axes
    heights = [bar.get_bbox().height for bar in above.patches if isinstance(bar, Rectangle)]
    widths = [bar.get_bbox().width for bar in right.patches if isinstance(bar, Rectangle)]
    assert sum(heights) == pytest.approx(features)
    assert sum(widths) == pytest.approx(features)
    assert heights[0] == (frequency == 0).sum()
    assert png(figure, tmp_path)


@pytest.mark.parametrize("frequency", [0, 1, 1000])
def test_dims_against_frequency_draws_features_that_are_all_alike(frequency: int, tmp_path: Path) -> None:
    figure = figures.dims_against_frequency(np.full(4000, 8), np.full(4000, frequency), 8, "nothing pruned")
    assert png(figure, tmp_path)


def test_figures_leave_no_trace_in_pyplot() -> None:
    import matplotlib
    from matplotlib import pyplot

    before = dict(matplotlib.rcParams)
    figures.gates_distribution(np.ones((2, 3)))
    assert pyplot.get_fignums() == []
    assert dict(matplotlib.rcParams) == before
