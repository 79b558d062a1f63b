"""What runs say against their searches stands below the table: each warning once, with the rows and seeds it is of."""

from __future__ import annotations

from pathlib import Path

from dnis_lightning.report.collect import collect
from dnis_lightning.report.doubts import doubts
from dnis_lightning.report.layout import footnotes
from dnis_lightning.report.settle import settle
from dnis_lightning.report.tables import Table, make_tables
from dnis_lightning.report.write import write
from tests.report.runs import make_run, part, rating

SHARED = "the rows that move α also stop the search; take data.split=three_way"
DEAD, TAKE = "block 3 is dead", "take a smaller search.penalty"


def run(folder: Path, seed: int, *warnings: str, **keys: object) -> None:
    """A run with a cut and these warnings."""
    cut = part(rating(0.8), 500, budget="cr:2")
    make_run(folder, rating(0.7), seed=seed, pruned=[cut], diagnostics={"warnings": warnings, "gap": None}, **keys)  # type: ignore[arg-type]


def table_of(folder: Path) -> Table:
    (table,) = make_tables(settle(collect([folder]).runs))
    return table


def test_seeds_with_the_same_warning_share_a_sentence(tmp_path: Path) -> None:
    for seed in range(3):
        run(tmp_path, seed, SHARED, *([f"{DEAD}; {TAKE}"] if seed == 1 else []))
    finding, advice = SHARED.split("; ")
    assert list(doubts(table_of(tmp_path))) == [
        f"In doubt: {finding} (DNIS (unpruned), MF, seeds 0, 1, 2); {advice}.",
        f"In doubt: {DEAD} (DNIS (unpruned), MF, seed 1); {TAKE}.",
    ]


def test_what_has_no_search_is_warned_of_too(tmp_path: Path) -> None:
    make_run(
        tmp_path, rating(0.7), search="none", seed=0, warnings=["no better on select than biases alone; take more"]
    )
    (told,) = doubts(table_of(tmp_path))
    assert told.startswith("In doubt: no better on select than biases alone (")
    assert told.endswith("; take more.")


def test_one_advice_for_all_that_was_found(tmp_path: Path) -> None:
    for seed, finding in enumerate((DEAD, "blocks 2 and 3 are dead", DEAD)):
        run(tmp_path, seed, f"{finding}; {TAKE}")
    run(tmp_path, 0, f"{DEAD}; {TAKE}", model="fm")
    assert list(doubts(table_of(tmp_path))) == [
        f"In doubt: {DEAD} (DNIS (unpruned), MF, seeds 0, 2; DNIS (unpruned), FM, seed 0); "
        f"blocks 2 and 3 are dead (DNIS (unpruned), MF, seed 1); {TAKE}."
    ]


def test_nothing_is_said_of_runs_that_say_nothing(tmp_path: Path) -> None:
    run(tmp_path, 0)
    make_run(tmp_path, rating(0.7), search="none", diagnostics=None)
    make_run(tmp_path, rating(0.7), search="grid")  # of before there was such a key
    assert list(doubts(table_of(tmp_path))) == []


def test_footnotes_page_and_runs_have_them(tmp_path: Path) -> None:
    run(tmp_path / "runs", 0, SHARED)
    table = table_of(tmp_path / "runs")
    (note,) = (note for note in footnotes(table) if "doubt" in note)
    settled = settle(collect([tmp_path / "runs"]).runs)
    page = write(tmp_path / "report", settled, [table], [])
    assert note in page.read_text(encoding="utf-8")
    assert SHARED in (tmp_path / "report" / "runs.csv").read_text(encoding="utf-8")
