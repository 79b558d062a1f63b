"""How many entries go when, worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dnis_lightning.search.schedule import Gradual, Iterative, LearnedThresholds, OneShot, PolicySearch
from dnis_lightning.search.trial import Stopping
from dnis_lightning.training.pruning_modules import kept_at

SHORT, LONG = Stopping(2, 2), Stopping(9, 5)


def test_one_shot_is_one_cut_and_one_training() -> None:
    (step,) = OneShot(LONG).steps(1000, 100)
    assert (step.kept, step.phase.stopping, step.fresh) == (100, LONG, False)
    assert OneShot().steps(1000, 100)[0].phase is None


def test_every_round_leaves_the_same_share() -> None:
    steps = Iterative(3, SHORT, LONG).steps(8000, 1000)
    assert [step.kept for step in steps] == [4000, 2000, 1000]
    assert [step.phase.stopping for step in steps] == [SHORT, SHORT, LONG]
    assert Iterative(3, SHORT).steps(8000, 1000)[-1].phase.stopping == SHORT, "the last round trains in any case"
    assert [step.kept for step in Iterative(2, SHORT).steps(0, 0)] == [0, 0]
    assert [step.kept for step in Iterative(2, SHORT).steps(10, 0)] == [0, 0]


def test_the_mask_closes_by_a_cubic() -> None:
    closing, last = Gradual(4, LONG).steps(1000, 200)
    assert (closing.kept, last.kept, closing.phase.stopping.least_epochs) == (None, 200, 4)
    kept = [kept_at(closing.phase.moves, progress) for progress in (0, 0.25, 0.5, 0.75, 1)]
    assert kept == [1000, 538, 300, 212, 200]  # 200 + 800 · (1, 27/64, 1/8, 1/64, 0), rounded


def test_thresholds_are_learned_from_the_start_and_so_is_what_they_leave() -> None:
    learning, last = LearnedThresholds(7, -8.0, 1.0, "element", 1e-6, LONG).steps(1000, 200)
    assert learning.fresh
    assert last.fresh
    assert (learning.phase.moves.kept, learning.phase.stopping.max_epochs) == (200, 7)
    assert not learning.phase.stopping.best, "where it ends is what counts"
    assert last.phase.stopping == LONG


NIS = PolicySearch("multi", parts=4, cost_weight=0.1, lr=0.05, samples=4, warm_up=2, epochs=3, retrain=LONG)


def test_what_a_controller_chose_is_trained_from_its_start() -> None:
    warm_up, policy, last = NIS.steps(1000, 200)
    assert [step.phase.moves.learns for step in (warm_up, policy)] == [False, True]
    assert [step.phase.paired for step in (warm_up, policy)] == [False, True]
    assert (policy.phase.moves.entries, policy.phase.moves.kept) == (1000, 200)
    assert [step.fresh for step in (warm_up, policy, last)] == [True, False, True]
    for step, epochs in ((warm_up, 2), (policy, 3)):
        assert (step.phase.rows, step.phase.stopping) == ("train", Stopping(epochs, epochs, best=False))
    assert (last.phase.rows, last.phase.stopping) == ("train+search", LONG)
    alone, _ = replace(NIS, warm_up=0).steps(1000, 200)
    assert (alone.name, alone.fresh) == ("policy", True)


@pytest.mark.parametrize(
    "schedule", [OneShot(LONG), Iterative(3, SHORT), Gradual(2), LearnedThresholds(1, -8, 1, "table", 0, LONG), NIS]
)
def test_every_schedule_ends_with_what_was_asked_for(schedule) -> None:
    assert schedule.steps(50, 7)[-1].kept == 7
