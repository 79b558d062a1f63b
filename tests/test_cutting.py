"""Of two ways to cut that which is better on select stays, and the second is trained only where it may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dnis_lightning.blocks import make_blocks
from dnis_lightning.cutting import FAR, Cutter
from dnis_lightning.folder import RunFolder
from dnis_lightning.interaction.autoint import AutoInt
from dnis_lightning.interaction.fm import FM
from dnis_lightning.recommender import FeatureSpace, Recommender
from dnis_lightning.scheme import Scheme
from dnis_lightning.search.budget import Budget, parse_budget
from dnis_lightning.search.importance import Importance
from dnis_lightning.search.prune import Pruning, until_last
from dnis_lightning.search.schedule import OneShot
from dnis_lightning.search.trial import Stopping
from dnis_lightning.shipping import Shipping
from dnis_lightning.training.journal import Journal

FEATURES = 30
NEAR, BEYOND = 1 + FAR / 2, 1 + FAR * 2
Losses = dict[str, tuple[float, float]]


class Trainings:
    """Stands for a `PhaseRunner`: notes which steps are asked for, and that the model is trained then."""

    def __init__(self, journal: Journal) -> None:
        self.journal, self.names = journal, []  # type: ignore[var-annotated]

    def fit(self, name: str, phase: Any, model: Any, **how: Any) -> None:
        self.names.append(name)
        model.trained = True
        self.journal.record(name, {"seconds": 1.0})


def model_of(interaction: type) -> Recommender:
    torch.manual_seed(0)
    made = interaction() if interaction is FM else interaction(2, 6)
    return Recommender(FeatureSpace((0, 10, FEATURES)), made, dims=6, std=1.0)


def cutter(folder: Path, losses: Losses, *, rival: Any = "elements", interaction: type = FM, **more: Any) -> Cutter:
    """losses: by how it is cut, before and after training."""
    run = RunFolder(folder)
    run.checkpoint.parent.mkdir(parents=True, exist_ok=True)

    def evaluate(model: Any) -> dict[str, float]:
        before, after = losses["prefix" if model.turned else "elements"]
        return {"select/mse": after if getattr(model, "trained", False) else before}

    return Cutter(
        Pruning("prefix", OneShot(Stopping(3, 3)), rival=rival),
        Shipping(np.zeros(FEATURES, dtype=np.int64)),
        Trainings(Journal.open(run.checkpoint)),  # type: ignore[arg-type]
        run,
        whole=FEATURES * 6,
        blocks=make_blocks(np.arange(FEATURES), np.zeros(FEATURES, dtype=np.int32), blocks=1),
        importance=Importance(torch.arange(1.0, FEATURES + 1), lambda model: torch.ones(2, 6)),
        unpruned=lambda: model_of(interaction),
        initial=lambda: model_of(interaction),
        evaluate=evaluate,
        score=lambda metrics: metrics["select/mse"],
        **more,
    )


CASES: dict[str, tuple[tuple[float, float], str, list[str]]] = {
    "better once trained": ((NEAR, 0.7), "elements", ["fine_tune/cr:3", "fine_tune-elements/cr:3"]),
    "no better once trained": ((NEAR, 0.8), "prefix", ["fine_tune/cr:3", "fine_tune-elements/cr:3"]),
    "too far to be tried": ((BEYOND, 0.1), "prefix", ["fine_tune/cr:3"]),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_better_on_select_stays(case: str, tmp_path: Path) -> None:
    (before, after), wins, trained = CASES[case]
    made = cutter(tmp_path, {"prefix": (1.0, 0.8), "elements": (before, after)})
    facts = made.cut(parse_budget("cr:3"))
    assert facts["by"] == wins
    assert made.phases.names == trained  # type: ignore[attr-defined]
    assert facts["metrics"] == {"select/mse": min(after, 0.8) if wins == "elements" else 0.8}
    assert facts["metrics_before_finetune"] == {"select/mse": before if wins == "elements" else 1.0}
    assert facts["seconds"] >= len(trained), "those of both"
    scheme, _ = Scheme.load(made.folder.scheme("cr:3"))
    mask = torch.from_numpy(scheme.mask())
    assert torch.equal(mask, until_last(mask)) == (wins == "prefix"), "on disk is what has won"
    assert facts["kept"] == int(mask.sum()) <= FEATURES * 2


@pytest.mark.parametrize("bound", [parse_budget("loss:300%"), 0.5], ids=["loss", "threshold"])
def test_bounds_of_loss_and_thresholds_have_no_second_way(bound: Budget | float, tmp_path: Path) -> None:
    made = cutter(tmp_path, {"prefix": (1.0, 0.8), "elements": (1.0, 0.1)})
    assert made.cut(bound)["by"] == "prefix"
    assert len(made.phases.names) == 1  # type: ignore[attr-defined]


def test_of_what_cannot_be_turned_single_entries_go_once(tmp_path: Path) -> None:
    made = cutter(tmp_path, {"elements": (1.0, 0.8)}, interaction=AutoInt)
    assert made.cut(parse_budget("cr:3"))["by"] == "elements"
    assert made.phases.names == ["fine_tune/cr:3"]  # type: ignore[attr-defined]


def test_bytes_bind_both_ways(tmp_path: Path) -> None:
    made = cutter(tmp_path, {"prefix": (1.0, 0.8), "elements": (1.0, 0.1)})
    budget = parse_budget("0.0008MiB")
    facts = made.cut(budget)
    assert facts["by"] == "elements"
    assert budget.size is not None
    assert budget.size / 2 < facts["bytes"] <= budget.size


def test_the_first_way_is_not_cut_again_where_the_second_was_interrupted(tmp_path: Path) -> None:
    losses: Losses = {"prefix": (1.0, 0.8), "elements": (1.0, 0.7)}
    broken = cutter(tmp_path, losses)
    fit = broken.phases.fit

    def fails(name: str, *given: Any, **how: Any) -> None:
        if name.startswith("fine_tune-elements"):
            raise KeyboardInterrupt
        fit(name, *given, **how)

    broken.phases.fit = fails  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        broken.cut(parse_budget("cr:3"))
    again = cutter(tmp_path, losses)
    assert again.cut(parse_budget("cr:3"))["by"] == "elements"
    assert again.phases.names == ["fine_tune-elements/cr:3"]  # type: ignore[attr-defined]
    assert cutter(tmp_path, losses).cut(parse_budget("cr:3"))["by"] == "elements", "nor once it is done"
