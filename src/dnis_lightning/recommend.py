"""The best items for users, by a model of data.task=topk that was exported.

python -m dnis_lightning.recommend ship/ --user 42 --user 7 --top 5
python -m dnis_lightning.recommend ship/ --user 42 --seen interactions.csv

Writes user, item and score, the best first. --seen names a file with the columns of user and item: what a user has
there is left out.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from dnis_lightning.arguments import Parser, add_allow, add_text_options, run_tool
from dnis_lightning.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 1 after a sentence on stderr."""
    return run_tool(lambda: _recommend(_parser().parse_args(arguments)), "nothing is written")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m dnis_lightning.recommend",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="a folder that dnis_lightning.export wrote")
    parser.add_argument("--user", action="append", required=True, help="a raw id; may be given more than once")
    parser.add_argument("--top", type=int, default=10, help="how many items (default: 10)")
    add_allow(parser)
    parser.add_argument("--seen", metavar="FILE", help="users and items that are left out")
    add_text_options(parser)
    return parser


def _recommend(given: argparse.Namespace) -> None:
    for user in given.user:
        if not user.isprintable() and any(0xDC80 <= ord(c) <= 0xDCFF for c in user):
            raise UserError(f"--user {user!r}: expected text in UTF-8")
    if given.top < 1:
        raise UserError(f"--top {given.top}: expected 1 or more")
    from dnis_lightning.scoring import read_pairs  # torch loads once the words are known to be good
    from dnis_lightning.serving import Predictor

    predictor = Predictor.open(given.model, allow=given.allow)
    user, item = predictor.user_and_item()
    pairs = (
        None if given.seen is None else read_pairs(predictor, given.seen, given.user, given.separator, given.columns)
    )
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([user.name, item.name, "score"])
    for one, items in zip(given.user, predictor.recommend(given.user, given.top, pairs), strict=True):
        writer.writerows([one, name, f"{score:.9g}"] for name, score in items)
    if predictor.unknown[user.name]:
        strangers = predictor.unknown[user.name]
        print(
            f"{strangers} of {len(given.user)} users have no row of their own: theirs is that of all others",
            file=sys.stderr,
        )


if __name__ == "__main__":
    sys.exit(main())
