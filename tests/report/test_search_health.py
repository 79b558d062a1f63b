"""The picture of a search's health shows what `diagnostics` says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from dnis_lightning.report.figures import save
from dnis_lightning.report.search_health import search_health


def blocks(count: int, **facts: Any) -> list[dict[str, Any]]:
    return [
        {"block": number, "features": 5, "data_share": 1 / number, "signal": 2.0 * number, "dead": False, **facts}
        for number in range(1, count + 1)
    ]


def picture(told: list[dict[str, Any]], epochs: int = 4, metric: str = "mse") -> Figure:
    curves = pd.DataFrame(
        {"search/loss": np.linspace(1, 0.5, epochs), f"select/{metric}": np.linspace(0.9, 0.8, epochs)}
    )
    drift = np.random.default_rng(0).uniform(size=(epochs, len(told)))
    return search_health(told, drift, np.arange(11, 11 + epochs), curves, metric)


def test_blocks_have_bars_and_lines() -> None:
    share, moved, signal, losses = picture(blocks(3)).axes
    assert [bar.get_height() for bar in share.patches] == pytest.approx([1, 1 / 2, 1 / 3])
    assert [bar.get_height() for bar in signal.patches] == [2, 4, 6]
    assert sorted(str(line.get_label()) for line in moved.lines) == ["1", "2", "3"]
    np.testing.assert_allclose(losses.lines[1].get_ydata(), np.linspace(0.9, 0.8, 4))
    np.testing.assert_allclose(losses.lines[1].get_xdata(), [11, 12, 13, 14])


def test_dead_blocks_stand_out_and_empty_ones_have_no_bar() -> None:
    told = blocks(3)
    told[0]["dead"], told[1]["features"] = True, 0
    share = picture(told).axes[0]
    assert {round(bar.get_x() + bar.get_width() / 2) for bar in share.patches} == {1, 3}
    assert len({bar.get_facecolor() for bar in share.patches}) == 2
    assert [text.get_text() for text in share.get_legend().get_texts()] == ["dead"]


def test_a_metric_that_is_no_loss_has_an_axis_of_its_own() -> None:
    figure = picture(blocks(3), metric="ndcg@10")
    assert [axes.get_ylabel() for axes in figure.axes[3:]] == ["loss", "ndcg@10"]


@pytest.mark.parametrize(("count", "epochs"), [(1, 1), (50, 3)])
def test_any_number_of_blocks_and_epochs_is_drawn(count: int, epochs: int, tmp_path: Path) -> None:
    save(picture(blocks(count), epochs), tmp_path / "health.png")
    assert (tmp_path / "health.png").read_bytes().startswith(b"\x89PNG")
