"""Of several ways to cut that which is better on select stays, and others are trained only where they may be."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from dnis_lightning.blocks import make_blocks
from dnis_lightning.cutting import NARROWED, RIVAL_MARGIN, Cutter, Uncut
from dnis_lightning.folder import RunFolder
from dnis_lightning.interaction.dcn import DCN
from dnis_lightning.interaction.fm import FM
from dnis_lightning.judge import Judge
from dnis_lightning.recommender import FeatureSpace, Recommender
from dnis_lightning.scheme import EVERY, Scheme
from dnis_lightning.search.budget import Budget, at_threshold, parse_budget
from dnis_lightning.search.importance import Importance
from dnis_lightning.search.prune import Pruning, until_last
from dnis_lightning.search.schedule import Iterative, OneShot
from dnis_lightning.search.trial import Stopping
from dnis_lightning.shipping import Shipping
from dnis_lightning.training.journal import Journal

FEATURES = 30
IMPORTANCE = Importance(torch.arange(1.0, FEATURES + 1), lambda model: torch.ones(2, 6))
NEAR, BEYOND = 1 + RIVAL_MARGIN / 2, 1 + RIVAL_MARGIN * 2
Losses = dict[str, tuple[float, float]]


class Trainings:
    """Stands for a `PhaseRunner`: notes which steps are asked for, and that the model is trained then."""

    def __init__(self, journal: Journal) -> None:
        self.journal, self.names = journal, []  # type: ignore[var-annotated]

    def fit(self, name: str, phase: Any, model: Any, **how: Any) -> None:
        self.names.append(name)
        model.trained = True
        with torch.no_grad():
            model.table.get_parameter("weight").mul_(2)
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
        before, after = losses[getattr(model, "of", "prefix" if model.turned else "elements")]
        return {"select/mse": after if getattr(model, "trained", False) else before}

    return Cutter(
        Pruning("prefix", OneShot(Stopping(3, 3)), rival=rival),
        Shipping(np.zeros(FEATURES, dtype=np.int64)),
        Trainings(Journal.open(run.checkpoint)),  # type: ignore[arg-type]
        run,
        whole=FEATURES * 6,
        blocks=make_blocks(np.arange(FEATURES), np.zeros(FEATURES, dtype=np.int32), blocks=1),
        uncut=Uncut("trained", lambda: model_of(interaction), IMPORTANCE),
        initial=lambda: model_of(interaction),
        judge=Judge(evaluate, "mse"),
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


def before_search() -> Recommender:
    """Of larger entries, so that it is known again by them."""
    model = model_of(FM)
    model.of = "warm_start"  # type: ignore[assignment]
    with torch.no_grad():
        model.table.get_parameter("weight").mul_(100)
    return model


GATED: dict[str, tuple[dict[str, Any], tuple[float, float], str, list[str]]] = {
    "better": ({}, (0.99, 0.6), "warm_start", ["", "-elements", "-warm_start"]),
    "better than the first alone": ({}, (0.99, 0.75), "trained", ["", "-elements", "-warm_start"]),
    "worse before it is trained": ({}, (1.01, 0.1), "trained", ["", "-elements"]),
    "better by a hair": ({}, (0.99, 0.6995), "trained", ["", "-elements", "-warm_start"]),
    "no single entries": ({"rival": None}, (0.99, 0.6), "warm_start", ["", "-warm_start"]),
}


@pytest.mark.parametrize("case", GATED)
def test_the_table_before_the_search_is_cut_too(case: str, tmp_path: Path) -> None:
    more, losses, wins, trained = GATED[case]
    every = {"prefix": (1.0, 0.8), "elements": (1.0, 0.7), "warm_start": losses}
    made = cutter(tmp_path, every, before_search=Uncut("warm_start", before_search, IMPORTANCE), **more)
    facts = made.cut(parse_budget("cr:3"))
    assert facts["cut_from"] == wins
    assert made.phases.names == [f"fine_tune{suffix}/cr:3" for suffix in trained]  # type: ignore[attr-defined]
    largest = np.abs(Scheme.load(made.folder.scheme("cr:3"))[0].dense()).max()
    assert (largest > 50) == (wins == "warm_start"), "on disk is what has won"


def test_a_training_that_does_not_help_is_undone(tmp_path: Path) -> None:
    made = cutter(tmp_path / "a", {"prefix": (1.0, 1.2)}, rival=None)
    assert made.cut(parse_budget("cr:3"))["metrics"] == {"select/mse": 1.0}
    untrained = Cutter(**{**vars(made), "folder": RunFolder(tmp_path / "b"), "pruning": Pruning("prefix", OneShot())})
    untrained.phases = Trainings(Journal(tmp_path / "b" / "journal"))  # type: ignore[assignment]
    untrained.cut(parse_budget("cr:3"))
    found, expected = (Scheme.load(one.folder.scheme("cr:3"))[0].dense() for one in (made, untrained))
    assert np.allclose(found, expected)


@pytest.mark.parametrize("budget", [parse_budget("loss:300%"), at_threshold(0.5)], ids=["loss", "threshold"])
def test_bounds_of_loss_and_thresholds_have_no_second_way(budget: Budget, tmp_path: Path) -> None:
    made = cutter(tmp_path, {"prefix": (1.0, 0.8), "elements": (1.0, 0.1)})
    assert made.cut(budget)["by"] == "prefix"
    assert len(made.phases.names) == 1  # type: ignore[attr-defined]


class TwoTables(torch.nn.Module):
    """Of two tables side by side, without a way to turn both."""

    tables = 2

    def __init__(self, fields: int, dims: int) -> None:
        super().__init__()


def test_of_what_cannot_be_turned_single_entries_go_once(tmp_path: Path) -> None:
    made = cutter(tmp_path, {"elements": (1.0, 0.8)}, interaction=TwoTables)
    assert made.cut(parse_budget("cr:3"))["by"] == "elements"
    assert made.phases.names == ["fine_tune/cr:3"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("budget", ["cr:3", "0.0012MiB"])
def test_a_rotation_is_in_the_file_and_counts(budget: str, tmp_path: Path) -> None:
    made = cutter(tmp_path, {"prefix": (1.0, 0.8)}, rival=None, interaction=DCN)
    facts = made.cut(parse_budget(budget))
    scheme, _ = Scheme.load(made.folder.scheme(parse_budget(budget).name))
    longest = scheme.dims_per_feature.max()
    assert facts["by"] == "prefix"
    assert scheme.projections[EVERY].shape == (longest, 6)
    assert facts["projections"] == longest * 6
    if budget.endswith("MiB"):
        size = parse_budget(budget).size
        assert size is not None
        assert size - 30 <= facts["bytes"] <= size


def test_bytes_bind_both_ways(tmp_path: Path) -> None:
    made = cutter(tmp_path, {"prefix": (1.0, 0.8), "elements": (1.0, 0.1)})
    budget = parse_budget("0.0008MiB")
    facts = made.cut(budget)
    assert facts["by"] == "elements"
    assert budget.size is not None
    assert budget.size / 2 < facts["bytes"] <= budget.size


class Coarse(Shipping):
    """Of whatever type does; but int8 does not."""

    def choose(self, scheme: Scheme, *given: Any) -> Any:
        return Shipping(self.block_of, self.layout, "fp16").choose(scheme, *given)


def in_any_type(folder: Path, shipping: type[Shipping] = Shipping, **more: Any) -> Cutter:
    made = cutter(folder, {"prefix": (1.0, 0.8), "elements": (1.0, 0.9)}, **more)
    made.shipping = shipping(np.zeros(FEATURES, dtype=np.int64), None, None)
    return made


@pytest.mark.parametrize(
    ("size", "shipping", "tried", "wins"),
    [
        (512, Shipping, ["int8"], "int8"),
        (512, Coarse, ["int8", "fp16"], "fp16"),
        (480, Shipping, ["fp16"], "fp16"),  # scales alone would fill it
        (4096, Shipping, ["fp32"], "int8"),  # all fits in any type, and the smallest is shipped
    ],
)
def test_bytes_are_filled_in_the_type_that_is_shipped(
    size: int, shipping: type[Shipping], tried: list[str], wins: str, tmp_path: Path
) -> None:
    made = in_any_type(tmp_path, shipping, rival=None)
    facts = made.cut(parse_budget(f"{size / 2**10}KiB"))
    assert facts["dtype"] == wins
    assert made.phases.names == [f"fine_tune-{dtype}/{size / 2**10}KiB" for dtype in tried]  # type: ignore[attr-defined]
    assert facts["bytes"] <= size
    assert facts["bytes"] > 0.95 * size or facts["kept"] == FEATURES * 6
    assert Scheme.load(made.folder.scheme(facts["budget"]))[0].kept == facts["kept"]


def test_a_second_way_fills_bytes_in_the_type_of_the_first(tmp_path: Path) -> None:
    made = in_any_type(tmp_path, Coarse)
    made.judge = Judge(lambda model: {"select/mse": 1.0 - 0.04 * (not model.turned)}, "mse")
    facts = made.cut(parse_budget("0.48KiB"))
    assert (facts["by"], facts["dtype"]) == ("elements", "fp16")
    assert 0.95 * 0.48 * 1024 < facts["bytes"] <= 0.48 * 1024


def test_a_type_that_was_passed_over_is_not_tried_again(tmp_path: Path) -> None:
    whole = in_any_type(tmp_path / "whole", Coarse, rival=None)
    expected = whole.cut(parse_budget("0.5KiB"))
    assert whole.phases.names == ["fine_tune-int8/0.5KiB", "fine_tune-fp16/0.5KiB"]  # type: ignore[attr-defined]
    broken = in_any_type(tmp_path / "broken", Coarse, rival=None)
    fit = broken.phases.fit

    def fails(name: str, *given: Any, **how: Any) -> None:
        if "fp16" in name:
            raise KeyboardInterrupt
        fit(name, *given, **how)

    broken.phases.fit = fails  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        broken.cut(parse_budget("0.5KiB"))
    again = in_any_type(tmp_path / "broken", Coarse, rival=None)
    facts = again.cut(parse_budget("0.5KiB"))
    assert again.phases.names == ["fine_tune-fp16/0.5KiB"]  # type: ignore[attr-defined]
    assert facts["metrics"] == expected["metrics"]
    assert facts["kept"] == expected["kept"]


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


def test_a_rival_that_was_tried_is_not_tried_again(tmp_path: Path) -> None:
    losses: Losses = {"prefix": (1.0, 0.8), "elements": (1.0, 0.9), "warm_start": (0.99, 0.6)}

    def made(fails_at: str = "") -> Cutter:
        one = cutter(tmp_path, losses, before_search=Uncut("warm_start", before_search, IMPORTANCE))
        fit = one.phases.fit

        def fails(name: str, *given: Any, **how: Any) -> None:
            if fails_at and name.startswith(fails_at):
                raise KeyboardInterrupt
            fit(name, *given, **how)

        one.phases.fit = fails  # type: ignore[method-assign, assignment]
        return one

    with pytest.raises(KeyboardInterrupt):
        made("fine_tune-warm_start").cut(parse_budget("cr:3"))
    again = made()
    assert again.cut(parse_budget("cr:3"))["cut_from"] == "warm_start"
    assert again.phases.names == ["fine_tune-warm_start/cr:3"]  # type: ignore[attr-defined]
    assert "tried" not in again.phases.journal.done["cut/cr:3"]


def by_size(folder: Path, *, needed: float, trains: bool = True) -> Cutter:
    """What is lost by a cut grows from nothing to 10 %; once trained, to nothing where a share of entries is kept."""

    def evaluate(model: Any) -> dict[str, float]:
        share = int(model.table.kept().sum()) / (FEATURES * 6)
        lost = float(share < needed) if getattr(model, "trained", False) else 1 - share
        return {"select/mse": 1 + 0.1 * lost}

    made = cutter(folder, {})
    made.judge = Judge(evaluate, "mse")
    made.pruning = Pruning("prefix", OneShot(Stopping(3, 3) if trains else None), rival="elements")
    return made


@pytest.mark.parametrize("needed", [0.0, 0.01, 0.1, 0.27, 0.69])
def test_the_smallest_table_within_a_loss_is_found_by_training(needed: float, tmp_path: Path) -> None:
    made = by_size(tmp_path, needed=needed)
    facts = made.cut(parse_budget("loss:3%"))
    least = needed * FEATURES * 6
    assert least <= facts["kept"] <= max(least * NARROWED, least + 1)
    assert facts["metrics"]["select/mse"] <= 1.03
    assert facts["by"] == "prefix"
    assert Scheme.load(made.folder.scheme("loss:3%"))[0].kept == facts["kept"]
    assert len(made.phases.names) <= 9  # type: ignore[attr-defined]


class Rounded(Shipping):
    """What is shipped is far worse than the same in fp32, but for large tables."""

    least: ClassVar[int] = 150

    def choose(self, scheme: Scheme, metrics: Any, evaluate: Any, score: Any) -> Any:
        packed, metrics = super().choose(scheme, metrics, evaluate, score)
        return packed, {"select/mse": metrics["select/mse"] + 0.1 * (scheme.kept < self.least)}


class RoundedAtNothing(Rounded):
    """The same, but for tables of an entry or more."""

    least = 1


@pytest.mark.parametrize("trains", [True, False])
def test_a_first_cut_that_is_beyond_the_loss_in_the_end_is_made_larger(trains: bool, tmp_path: Path) -> None:
    made = by_size(tmp_path, needed=0, trains=trains)
    made.shipping = Rounded(np.zeros(FEATURES, dtype=np.int64))
    facts = made.cut(parse_budget("loss:3%"))
    assert facts["metrics"]["select/mse"] <= 1.03
    assert 150 <= facts["kept"] <= 150 * NARROWED


def test_where_none_are_too_few_the_least_that_do_are_found(tmp_path: Path) -> None:
    made = by_size(tmp_path, needed=0, trains=True)
    made.judge = Judge(lambda model: {"select/mse": 1.0}, "mse")
    made.shipping = RoundedAtNothing(np.zeros(FEATURES, dtype=np.int64))
    facts = made.cut(parse_budget("loss:3%"))
    assert facts["kept"] == 1
    assert facts["within_loss"]


def test_a_loss_of_nothing_is_not_decided_by_rounding(tmp_path: Path) -> None:
    made = by_size(tmp_path, needed=0, trains=False)

    def evaluate(model: Recommender) -> dict[str, float]:
        return {"select/mse": 1.0 + 1e-7 * model.turned + 0.1 * (int(model.table.kept().sum()) < FEATURES * 6)}

    made.judge = Judge(evaluate, "mse")
    facts = made.cut(parse_budget("loss:0%"))
    assert facts["kept"] == FEATURES * 6
    assert facts["within_loss"]


def test_where_nothing_is_within_the_loss_the_best_is_kept(tmp_path: Path) -> None:
    made = by_size(tmp_path, needed=0, trains=False)
    made.shipping = Rounded(np.zeros(FEATURES, dtype=np.int64))
    made.shipping.choose = lambda scheme, metrics, evaluate, score: (  # type: ignore[method-assign]
        made.shipping.packed(scheme, "fp32"),
        {"select/mse": 2 - scheme.kept / 1000},
    )
    facts = made.cut(parse_budget("loss:3%"))
    assert facts["kept"] == FEATURES * 6
    assert not facts["within_loss"]
    assert Scheme.load(made.folder.scheme("loss:3%"))[0].kept == FEATURES * 6


def test_models_that_were_tried_are_let_go(tmp_path: Path) -> None:
    made, alive, most = by_size(tmp_path, needed=0.1), [], [0]
    uncut = made.uncut

    def watched() -> Recommender:
        gc.collect()
        most[0] = max(most[0], sum(one() is not None for one in alive))
        model = uncut.model()
        alive.append(weakref.ref(model))
        return model

    made.uncut = replace(uncut, model=watched)
    made.cut(parse_budget("loss:3%"))
    assert len(alive) > 4
    assert most[0] == 0


def test_without_training_the_smallest_table_within_a_loss_is_known_at_once(tmp_path: Path) -> None:
    made = by_size(tmp_path, needed=0, trains=False)
    assert 0 <= made.cut(parse_budget("loss:3%"))["kept"] - 0.7 * FEATURES * 6 <= 3
    assert not made.phases.names  # type: ignore[attr-defined]


def test_a_search_for_the_smallest_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    whole = by_size(tmp_path / "whole", needed=0.1)
    expected = whole.cut(parse_budget("loss:3%"))
    for number in range(1, len(whole.phases.names)):  # type: ignore[attr-defined]
        broken = by_size(tmp_path / str(number), needed=0.1)
        fit = broken.phases.fit

        def fails(name: str, *given: Any, broken: Cutter = broken, fit: Any = fit, number: int = number) -> None:
            if len(broken.phases.names) == number:  # type: ignore[attr-defined]
                raise KeyboardInterrupt
            fit(name, *given[:2])

        broken.phases.fit = lambda *given, fails=fails, **how: fails(*given)  # type: ignore[method-assign, misc]
        with pytest.raises(KeyboardInterrupt):
            broken.cut(parse_budget("loss:3%"))
        again = by_size(tmp_path / str(number), needed=0.1)
        assert again.cut(parse_budget("loss:3%"))["kept"] == expected["kept"]
        done = [*broken.phases.names, *again.phases.names]  # type: ignore[attr-defined]
        assert done == whole.phases.names, "nothing is trained again"  # type: ignore[attr-defined]


def test_a_damaged_scheme_is_made_anew(tmp_path: Path) -> None:
    losses: Losses = {"prefix": (1.0, 0.8), "elements": (2.0, 2.0)}
    first = cutter(tmp_path, losses)
    first.cut(parse_budget("cr:3"))
    path = first.folder.scheme("cr:3")
    path.write_bytes(path.read_bytes()[:40])
    again = cutter(tmp_path, losses)
    again.cut(parse_budget("cr:3"))
    assert again.phases.names == ["fine_tune/cr:3"]  # type: ignore[attr-defined]
    assert Scheme.load(path)[0].kept == FEATURES * 2


def test_rounds_of_both_ways_have_names_of_their_own(tmp_path: Path) -> None:
    made = cutter(tmp_path, {"prefix": (1.0, 0.8), "elements": (1.0, 0.7)})
    made.pruning = Pruning("prefix", Iterative(2, Stopping(3, 3)), rival="elements")
    facts = made.cut(parse_budget("cr:3"))
    assert facts["by"] == "elements"
    names = ["round-1/cr:3", "fine_tune/cr:3", "round-1-elements/cr:3", "fine_tune-elements/cr:3"]
    assert made.phases.names == names  # type: ignore[attr-defined]
    mask = torch.from_numpy(Scheme.load(made.folder.scheme("cr:3"))[0].mask())
    assert not torch.equal(mask, until_last(mask))
