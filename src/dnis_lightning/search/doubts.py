"""When a search is not to be trusted, and what to do about it: sentences for whoever reads its result.

Each says what was found and, behind the first semicolon, what to do, which is the same for all searches that have the
fault. The bounds were set by looking at searches that are known to be good or bad (docs/reading.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dnis_lightning.search.diagnosis import BlockHealth, Diagnosis

LEAST_SHARE = 0.5  # of the data in the movement of a block
NOISE = 1.5  # signal of a block
LEAST_MOVE = 0.01  # of α from 1, mean over all gates
PACE = 0.8  # drift of the last epochs, as a share of that of the first
STILL_MOVING = 0.1  # what α would move in as many epochs again
GROWTH = 0.04  # of the gap, as a share of the select loss
_LATE = 2 / 3  # of a search is over


@dataclass(frozen=True)
class Course:
    """What else is known of a search of T epochs.

    costs (T,): the metric that decides, on select, turned so that smaller is better. best: the epoch that the search
    ends with, 0 for what it started from. least_epochs: the first that counts. shared: the rows of search serve as
    select, too. judged: what it started from was known and counted, so that an epoch that was chosen is better.
    """

    costs: Sequence[float]
    best: int
    least_epochs: int
    shared: bool
    judged: bool = False

    @property
    def won(self) -> bool:
        """Whether the search is known to have led to something better."""
        return self.judged and self.best > 0


def doubts(diagnosis: Diagnosis, course: Course) -> tuple[str, ...]:
    """What is wrong with a search, if anything. Blocks without features are passed over."""
    blocks = [block for block in diagnosis.blocks if block.features]
    if not all(math.isfinite(number) for one in blocks for number in (one.data_share, one.signal, one.drift)):
        return (
            "the search diverged: its gradients are no finite numbers, so all gates are as they were before; take a "
            "smaller optimizer.lr, or a smaller search.xi if that is not 0",
        )
    return (
        *_on_blocks(blocks),
        *_on_signal(blocks),
        *_on_movement(blocks, diagnosis, course),
        *_on_gap(diagnosis, course),
        *_on_select(diagnosis, course),
        *_on_rows(course),
    )


def _on_blocks(blocks: Sequence[BlockHealth]) -> Iterator[str]:
    dead = [one.block for one in blocks if one.dead]
    if dead:
        yield (
            f"{_named(dead)} dead, with all gates at 0; take a smaller search.penalty, or fewer search.blocks, so that "
            "each has more rows to speak for it"
        )
    pressed = [one.block for one in blocks if one.data_share < LEAST_SHARE and not one.dead]
    if pressed:
        yield (
            f"{_named(pressed)} moved more by the penalty than by the data; take a smaller search.penalty, or fewer "
            "search.blocks, so that the steps of each rest on more rows"
        )


def _on_signal(blocks: Sequence[BlockHealth]) -> Iterator[str]:
    if all(one.signal < NOISE for one in blocks):
        yield (
            "the gradient of the gates is noise in every block; take fewer search.blocks or a larger data.batch_size, "
            "so that each step rests on more rows, or mark more rows for search (data.split=column)"
        )


def _on_movement(blocks: Sequence[BlockHealth], diagnosis: Diagnosis, course: Course) -> Iterator[str]:
    if diagnosis.epochs * sum(one.drift for one in blocks) / len(blocks) < LEAST_MOVE:
        yield (
            "α hardly moved from 1; take a search.gates_lr ten times as large, and if α stays there even so, the data "
            "want every gate, and search=none does as well"
        )
    elif _unfinished(diagnosis, course):
        yield (
            "α still moved in the last epochs as it did in the first, and select was at its best among them; take more "
            "search.search_epochs, or a larger search.gates_lr"
        )


def _unfinished(diagnosis: Diagnosis, course: Course) -> bool:
    epochs, pace = diagnosis.epochs, diagnosis.drift
    late = epochs > 2 and course.best > max(_LATE * epochs, course.least_epochs)
    return late and pace.last >= PACE * pace.first and epochs * pace.last >= STILL_MOVING


def _on_gap(diagnosis: Diagnosis, course: Course) -> Iterator[str]:
    stale = min(course.costs) not in course.costs[int(_LATE * diagnosis.epochs) :]
    if diagnosis.gap is not None and diagnosis.gap.growth > GROWTH and stale and not course.won:
        yield (
            "α came to fit the search rows: their loss fell away from that of select, which got worse; take a larger "
            "search.penalty, fewer search.search_epochs or search.blocks, or more rows"
        )


def _on_select(diagnosis: Diagnosis, course: Course) -> Iterator[str]:
    first, counting = course.costs[0], course.costs[max(course.least_epochs - 1, 1) :]
    if course.best == 0:
        yield (
            "no epoch that counts (search.least_epochs) was better on select than what the search started from, so all "
            "gates are open again; the gates earn nothing here, and search=none prune=best with the same "
            "search.budget comes to the same"
        )
    elif course.won or _unfinished(diagnosis, course):
        return
    elif counting and first <= min(counting) and first < course.costs[-1]:
        yield (
            "select got worse from the first epoch of the search on, and none that counts (search.least_epochs) made "
            "up for it; the gates earn nothing here: compare with search=none prune=best and the same search.budget"
        )


def _on_rows(course: Course) -> Iterator[str]:
    if course.shared:
        yield (
            "the rows that move α also stop the search and choose among its epochs, so that nothing shows how far α "
            "fits them alone; take data.split=three_way"
        )


def _named(blocks: Sequence[int]) -> str:
    """`block 3 is`, `blocks 1–3 and 7 are`."""
    if len(blocks) == 1:
        return f"block {blocks[0]} is"
    runs: list[list[int]] = []
    for block in blocks:
        if runs and block == runs[-1][-1] + 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    told = [str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs]
    return f"blocks {' and '.join(filter(None, (', '.join(told[:-1]), told[-1])))} are"
