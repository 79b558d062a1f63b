"""The pictures that a run leaves in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

import dnis_lightning.report.figures as figures
from dnis_lightning.report.payers import payers, reliability
from dnis_lightning.report.search_health import search_health
from dnis_lightning.report.trials import trials
from dnis_lightning.search.diagnosis import drift


def draw(
    folder: Path,
    history: Mapping[str, Any],
    metric: str,
    told: Sequence[Mapping[str, Any]],
    gates: torch.Tensor | None,
    dims: Mapping[str, np.ndarray],
    frequency: np.ndarray,
    base_dim: int,
    diagnostics: Mapping[str, Any] | None = None,
) -> None:
    """Write learning curves, gates over time and at the end (figure 3a), and dims against frequency (figure 3b) as PNG.

    history: `rows`, `gates` (each (L, K)) and `gate_epochs` of `History`. told: the trials, which have a picture where
    there are several. dims: (N,) for each table; frequency (N,). diagnostics: of the search, which then has a picture.
    """
    rows = pd.DataFrame(history["rows"])
    if diagnostics is not None:
        figures.save(_health(diagnostics, history, rows, metric), folder / "search_health.png")
    rows["phase"] = [
        phase.split("/")[-1] if "/search" in phase or "/" not in phase else phase for phase in rows["phase"]
    ]
    figures.save(figures.learning_curves(rows, metric), folder / "learning_curves.png")
    if len(told) > 1:
        figures.save(trials(told, metric), folder / "trials.png")
    if gates is not None and gates.numel():
        figures.save(figures.gates_distribution(gates.detach().numpy()), folder / "gates.png")
    if len(history["gates"]) and history["gates"][0].numel():
        over_time = figures.gates_over_time(torch.stack(history["gates"]).numpy(), np.asarray(history["gate_epochs"]))
        figures.save(over_time, folder / "gates_over_time.png")
    for name, counts in dims.items():
        figure = figures.dims_against_frequency(counts, frequency, base_dim, f"Kept dimensions at {name}")
        figures.save(figure, folder / f"dims_{name.replace(':', '-')}.png")


def draw_tests(folder: Path, told: Mapping[str, Any]) -> None:
    """Write what `result.json` says of the test rows as PNG: who pays, and, of clicks, how they are calibrated."""
    if told["who_pays"] is None:
        return
    figures.save(payers(told["who_pays"]), folder / "who_pays.png")
    parts = {"unpruned": told["unpruned"]} | {cut["budget"]: cut for cut in told["pruned"]}
    calibrated = {name: part["calibration"] for name, part in parts.items() if "calibration" in part}
    if calibrated:
        figures.save(reliability(calibrated), folder / "calibration.png")


def _health(diagnostics: Mapping[str, Any], history: Mapping[str, Any], rows: pd.DataFrame, metric: str) -> Figure:
    """Of the phase that was diagnosed, which other trials may have, too."""
    curves = rows[rows["phase"] == diagnostics["phase"]]
    epochs = curves["epoch"].to_numpy()
    gates = [gates for gates, epoch in zip(history["gates"], history["gate_epochs"], strict=True) if epoch in epochs]
    return search_health(diagnostics["blocks"], drift(gates).numpy(), epochs, curves, metric)
