"""Writes what a finished run has found as a folder that can be shipped: the packed table, raw ids and the model.

python -m dnis_lightning.export outputs/movielens-1m-mf-dnis/20260101-120000-0-s0 --budget cr:10 --to ship/
python -m dnis_lightning.export RUN --to ship/ --dtype fp16 --layout csr
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from dnis_lightning.arguments import Parser, run_tool
from dnis_lightning.errors import UserError
from dnis_lightning.measures import headline
from dnis_lightning.packed.layouts import LayoutName
from dnis_lightning.packed.values import DTypeName

if TYPE_CHECKING:  # torch and Hydra load only once the words are known to be good
    from dnis_lightning.exporting import Exported


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 1 after a sentence on stderr."""
    return run_tool(lambda: _export(_parser().parse_args(arguments)), "nothing is written")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m dnis_lightning.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="a new folder to write to")
    parser.add_argument("--budget", help="which cut, as cr:10, or unpruned; not needed where there is but one cut")
    parser.add_argument(
        "--layout", choices=("auto", *get_args(LayoutName)), default="auto", help="auto: the smallest (default)"
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", *get_args(DTypeName)),
        default="auto",
        help="of the values; auto (default): the smallest that is no worse on the select rows than --tolerance says",
    )
    parser.add_argument(
        "--tolerance", type=float, default=0.001, help="a share of the metric that decides (default: 0.001)"
    )
    return parser


def _export(given: argparse.Namespace) -> None:
    if not given.tolerance >= 0:
        raise UserError(f"--tolerance {given.tolerance}: expected a share, 0 or above")
    from dnis_lightning.exporting import Wanted, export
    from dnis_lightning.folder import RunFolder, logging_early

    layout, dtype = (None if one == "auto" else one for one in (given.layout, given.dtype))
    with logging_early():
        made = export(RunFolder(given.run), given.to, Wanted(given.budget, layout, dtype, given.tolerance))
    print(_report(made))
    print(given.to)


def _report(made: Exported) -> str:
    """Bytes by part, the same table in other forms, and the metrics of what is shipped."""
    table = made.table
    lines = [(f"{made.budget}: {table.layout.name}, {table.values.dtype}", table.bytes)]
    lines += [(f"  {part}", size) for part, size in table.parts.items()]
    lines += [(name, size) for name, size in made.files.items() if name != "table.safetensors"]
    lines += [(f"the table as {name}", size) for name, size in made.others.items()]
    width = max(len(name) for name, _ in lines)
    rows = [f"{name:<{width}}  {size / 2**20:>12,.3f} MiB" for name, size in lines]
    metrics = ", ".join(f"{name} {made.metrics[name]:.6g}" for name in headline(list(made.metrics)))
    return "\n".join([*rows, metrics] if metrics else rows)


if __name__ == "__main__":
    sys.exit(main())
