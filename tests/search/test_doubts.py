"""Each warning comes where it should, and a search in good health has none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dnis_lightning.search.diagnosis import BlockHealth, Diagnosis, Gap, Pace
from dnis_lightning.search.doubts import Course, doubts

BLOCK = BlockHealth(block=1, features=10, data_share=0.9, signal=8.0, gates=0.8, dead=False, drift=0.02)
GOOD = Diagnosis(9, tuple(replace(BLOCK, block=number) for number in range(1, 6)), Pace(0.03, 0.01), Gap(0.0, 0.0, 0.0))
FALLING = Course([1 - epoch / 100 for epoch in range(9)], best=9, least_epochs=5, shared=False)
RISING = Course([1 + epoch / 100 for epoch in range(9)], best=5, least_epochs=5, shared=False)
BACK = replace(FALLING, costs=[0.9, 0.8, 0.7, 0.6, 0.5, 0.6, 0.7, 0.8, 0.9], best=5)


def with_blocks(*numbers: int, **facts: Any) -> Diagnosis:
    """The good one, but for these facts of these blocks, or of all."""
    chosen = numbers or range(1, 6)
    return replace(GOOD, blocks=tuple(replace(one, **facts) if one.block in chosen else one for one in GOOD.blocks))


@pytest.mark.parametrize("course", [FALLING, BACK])
def test_a_search_in_good_health_has_no_warning(course: Course) -> None:
    assert doubts(GOOD, course) == ()


FAULTS: dict[str, tuple[Diagnosis, Course, str, str]] = {
    "one dead": (with_blocks(3, dead=True), FALLING, "block 3 is dead", "smaller search.penalty"),
    "some dead": (with_blocks(1, 2, 3, 5, dead=True), FALLING, "blocks 1–3 and 5 are dead", "fewer search.blocks"),
    "diverged": (with_blocks(2, data_share=float("nan")), FALLING, "the search diverged", "smaller optimizer.lr"),
    "pressed": (with_blocks(2, 4, data_share=0.49), FALLING, "blocks 2 and 4 are moved more by the penalty", "penalty"),
    "noise": (with_blocks(signal=1.1), FALLING, "noise in every block", "larger data.batch_size"),
    "still": (with_blocks(drift=0.001), FALLING, "α hardly moved", "search.gates_lr ten times"),
    "moving": (replace(GOOD, drift=Pace(0.03, 0.025)), FALLING, "α still moved in the last epochs", "search_epochs"),
    "moving, and worse so far": (
        replace(GOOD, drift=Pace(0.03, 0.03)),
        replace(FALLING, costs=[1.0, 1.5, 2.0, 2.5, 2.4, 2.3, 2.2, 2.1, 2.0]),
        "α still moved in the last epochs",
        "more search.search_epochs",
    ),
    "resting, and worse": (
        GOOD,
        replace(FALLING, costs=[1.0, 1.5, 2.0, 2.5, 2.4, 2.3, 2.2, 2.1, 2.0]),
        "select got worse",
        "search=none",
    ),
    "fitted": (replace(GOOD, gap=Gap(0.0, 0.05, 0.05)), BACK, "α came to fit the search rows", "larger search.penalty"),
    "worse": (GOOD, RISING, "select got worse from the first epoch", "search=none prune=best"),
    "late": (GOOD, replace(RISING, costs=[0.5, *BACK.costs[1:]], best=5), "select got worse", "search=none"),
    "nowhere": (GOOD, replace(RISING, best=0), "no epoch that counts", "with the same search.budget"),
    "at once": (GOOD, replace(RISING, best=1, least_epochs=1), "select got worse", "search=none"),
    "shared": (replace(GOOD, gap=None), replace(FALLING, shared=True), "nothing shows", "take data.split=three_way"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_gets_what_was_found_and_what_to_do(fault: str) -> None:
    diagnosis, course, found, advice = FAULTS[fault]
    (warning,) = doubts(diagnosis, course)
    finding, _, what = warning.partition("; ")
    assert found in finding
    assert advice in what


SOUND: dict[str, tuple[Diagnosis, Course]] = {
    "a block without features": (with_blocks(5, features=0, dead=True, data_share=0.0, signal=0.0), FALLING),
    "half and half": (with_blocks(2, data_share=0.5), FALLING),
    "noise in some blocks": (with_blocks(1, 2, 3, 4, signal=1.0), FALLING),
    "some blocks at rest": (with_blocks(1, 2, 3, drift=0.0), FALLING),
    "moving, but on the spot": (replace(GOOD, drift=Pace(0.011, 0.01)), FALLING),
    "moving, past the best epoch": (replace(GOOD, drift=Pace(0.03, 0.025)), BACK),
    "a search that won": (GOOD, replace(RISING, judged=True)),
    "a gap that grew in a search that won": (replace(GOOD, gap=Gap(0.0, 0.2, 0.2)), replace(BACK, judged=True)),
    "of two epochs": (replace(GOOD, epochs=2, drift=Pace(0.1, 0.1)), replace(FALLING, costs=[1.0, 0.9], best=2)),
    "a gap that grew while select got better": (replace(GOOD, gap=Gap(0.0, 0.2, 0.2)), FALLING),
    "a gap that grew a little": (replace(GOOD, gap=Gap(0.0, 0.03, 0.03)), BACK),
    "a gap that was there at first": (replace(GOOD, gap=Gap(0.5, 0.5, 0.0)), BACK),
    "one epoch": (replace(GOOD, epochs=1), replace(RISING, costs=[1.0], best=1, least_epochs=1)),
    "nothing changes": (GOOD, replace(RISING, costs=[1.0] * 9)),
}


@pytest.mark.parametrize("case", SOUND)
def test_what_is_no_fault_gets_no_warning(case: str) -> None:
    assert doubts(*SOUND[case]) == ()


def test_a_dead_block_is_not_also_said_to_be_moved_by_the_penalty() -> None:
    (warning,) = doubts(with_blocks(1, dead=True, data_share=0.0), FALLING)
    assert warning.startswith("block 1 is dead")
