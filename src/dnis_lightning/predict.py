"""Scores the rows of a file by a model that was exported: raw ids in, a rating or the probability of a click out.

python -m dnis_lightning.predict ship/ rows.csv > scores.csv
python -m dnis_lightning.predict ship/ ratings.dat --separator :: --columns user,item,rating,time --to scores.csv

Rows stay in their order, and columns that the model does not take are passed over. An id that training never saw counts
as all such ids of its field; how many there were is said at the end.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from dnis_lightning.arguments import Parser, add_allow, add_text_options, run_tool
from dnis_lightning.errors import UserError
from dnis_lightning.paths import whole_file


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 1 after a sentence on stderr."""
    return run_tool(lambda: _predict(_parser().parse_args(arguments)), "what was written is not whole")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m dnis_lightning.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="a folder that dnis_lightning.export wrote")
    parser.add_argument("rows", help="a text file (.csv, .tsv, .gz, …) with a header, or a Parquet file")
    parser.add_argument("--to", type=Path, metavar="FILE", help="where to write; default: standard output")
    add_allow(parser)
    add_text_options(parser)
    return parser


def _predict(given: argparse.Namespace) -> None:
    from tqdm import tqdm

    from dnis_lightning.scoring import score_file  # torch loads once the words are known to be good
    from dnis_lightning.serving import Predictor

    if given.to is not None and given.to.exists() and os.path.exists(given.rows) and given.to.samefile(given.rows):
        raise UserError(f"--to {given.to}: this is the file of the rows; name another")
    predictor = Predictor.open(given.model, allow=given.allow)
    rows, scored = 0, score_file(predictor, given.rows, given.separator, given.columns)
    with _output(given.to) as file, tqdm(desc="scoring", unit="row", unit_scale=True, disable=None) as bar:
        file.write("score\n")
        for some in scored:
            file.writelines(f"{score:.9g}\n" for score in some.scores.tolist())
            rows += len(some.scores)
            bar.total = max(int(rows / some.done), rows) if some.done else None
            bar.update(len(some.scores))
    print(_summary(rows, predictor.unknown), file=sys.stderr)


@contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that is written whole or not at all."""
    if path is None:
        yield sys.stdout
        return
    if path.is_dir():
        raise UserError(f"--to {path}: this is a folder; name a file")
    if path.exists() and not path.is_file():  # a pipe, or a device
        with path.open("w", encoding="utf-8") as file:
            yield file
        return
    with whole_file(path.resolve()) as part, part.open("w", encoding="utf-8") as file:
        yield file


def _summary(rows: int, unknown: dict[str, int]) -> str:
    """How many rows there were, and how many ids of each field training had not seen."""
    strange = [f"{count:,} of {field}" for field, count in unknown.items() if count]
    said = f"; ids without a row of their own: {', '.join(strange)}" if strange else ""
    return f"{rows:,} rows{said}"


if __name__ == "__main__":
    sys.exit(main())
