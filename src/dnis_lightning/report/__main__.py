"""Collects finished runs into tables, figures and a page.

python -m dnis_lightning.report outputs/ --to report/
python -m dnis_lightning.report outputs/movielens-1m-mf-dnis more/result.json --to report/ --against none
python -m dnis_lightning.report outputs/ --choose model.l2
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dnis_lightning.arguments import Parser, run_tool
from dnis_lightning.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 1 after a sentence on stderr."""
    return run_tool(lambda: _report(_parser().parse_args(arguments)), "the report is not whole")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m dnis_lightning.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="a folder, looked through with all below it; or a result.json",
    )
    parser.add_argument(
        "--to", type=Path, default=Path("report"), metavar="FOLDER", help="where to write (default: report)"
    )
    parser.add_argument(
        "--against",
        metavar="SEARCH",
        help="the search whose best row the others are tested against, as in search=... of the runs (default: dnis)",
    )
    parser.add_argument(
        "--on",
        choices=("test", "select"),
        default="test",
        help="the split whose metrics are shown; choices, as of an L2, are made on select (default: test)",
    )
    parser.add_argument(
        "--choose",
        action="append",
        default=[],
        metavar="KEY",
        help="of rows that differ in this key alone, as model.l2, show that which is best on select; may be repeated",
    )
    return parser


def _report(given: argparse.Namespace) -> None:
    # pandas and pydantic are loaded when the command line is right
    from dnis_lightning.report.choice import choose
    from dnis_lightning.report.collect import collect
    from dnis_lightning.report.layout import READING, markdown
    from dnis_lightning.report.settle import settle
    from dnis_lightning.report.tables import make_tables
    from dnis_lightning.report.write import write

    collected = collect(given.paths)
    for line in collected.skipped:
        print(f"passed over: {line}", file=sys.stderr)
    settled = settle(collected.runs)
    _check_search(given.against, sorted(settled.frame["search"].unique()))
    for key in given.choose:
        settled = choose(settled, key)
    tables = make_tables(settled, given.against or "dnis", given.on)
    page = write(given.to, settled, tables, collected.skipped)
    for line in (
        *map(markdown, tables),
        *settled.notes,
        "",
        *READING,
        "",
        f"{page}: the page, tables and figures beside it",
    ):
        print(line)


def _check_search(against: str | None, searches: Sequence[str]) -> None:
    if against is not None and against not in searches:
        raise UserError(f"--against {against}: no run has search={against}; there is {', '.join(searches)}")


if __name__ == "__main__":
    sys.exit(main())
