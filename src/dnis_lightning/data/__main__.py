"""Describes data before anything is trained on them: fields, features, skew and blocks, as tables and a picture.

python -m dnis_lightning.data describe movielens-1m
python -m dnis_lightning.data describe 'logs/*.csv.gz' label=clicked task=ctr min_count=10 --to describe/
python -m dnis_lightning.data describe ratings.dat separator=:: columns=[user,item,rating,time]
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from dnis_lightning.arguments import Parser
from dnis_lightning.errors import Terminated, UserError, raise_terminated


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 1 after a sentence on stderr."""
    try:
        given = _parser().parse_intermixed_args(arguments)
        _describe(given.words, given.to)
    except UserError as fault:
        print(fault, file=sys.stderr)
        return 1
    except Terminated:
        return _stopped("terminated", signal.SIGTERM)
    except KeyboardInterrupt:
        return _stopped("interrupted", signal.SIGINT)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m dnis_lightning.data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=("describe",), help="what to do")
    parser.add_argument(
        "words",
        nargs="+",
        metavar="WHAT",
        help="an option of data=, files or a pattern (./criteo is a file, criteo the option); then keys as in a run, "
        "where data. may be left out; a table needs no label and no task",
    )
    parser.add_argument(
        "--to",
        type=Path,
        default=Path("describe"),
        metavar="FOLDER",
        help="where to write describe.png and describe.json (default: describe)",
    )
    return parser


def _describe(words: Sequence[str], to: Path) -> None:
    # Hydra and torch are loaded when the command line is right
    from dnis_lightning.describe import asked_for, describe, schema_of, write
    from dnis_lightning.report.description import as_text

    if to.exists() and not to.is_dir():
        raise UserError(f"{to}: this is a file; --to names the folder to write to")
    asked = asked_for(words)
    for part in (*asked.notes, schema_of(asked.source)):
        if part:
            print(part, end="\n\n", flush=True)
    told = describe(asked)
    print(as_text(told), end="\n\n")
    for path in write(told, to):
        print(path)


def _stopped(how: str, number: int) -> int:
    print(f"{how}; what was encoded so far is dropped", file=sys.stderr)
    return 128 + number


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # for | head
    signal.signal(signal.SIGTERM, raise_terminated)
    sys.exit(main())
