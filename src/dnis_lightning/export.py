"""Writes what a finished run has found as a folder that can be shipped: the packed table, raw ids and the model.

python -m dnis_lightning.export outputs/movielens-1m-mf-dnis/20260101-120000-0-s0 --budget cr:10 --to ship/
python -m dnis_lightning.export RUN --to ship/ --dtype fp16 --layout csr
python -m dnis_lightning.export RUN --to tables/ --format structured
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from dnis_lightning.arguments import Parser, run_tool
from dnis_lightning.errors import UserError
from dnis_lightning.measures import headline
from dnis_lightning.packed.embedding import TABLE, WEIGHTS
from dnis_lightning.packed.layouts import LayoutName
from dnis_lightning.packed.values import DTypeName
from dnis_lightning.quantities import CutBy
from dnis_lightning.shipping import TOLERANCE, Format, Wanted

if TYPE_CHECKING:
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
    parser.add_argument(
        "--budget", help="which cut, as cr:10, or unpruned; one that the run has not made is made now, without training"
    )
    parser.add_argument(
        "--by",
        choices=get_args(CutBy),
        help="cut the run's whole table anew to --budget, without training: single entries, by gates whole "
        "dimensions of blocks, or first dimensions (prefix); default: the run's own cut to this budget, or, where it "
        "has none, as the run cuts (by first dimensions where it tries two ways)",
    )
    parser.add_argument(
        "--format",
        choices=get_args(Format),
        default="packed",
        help="packed (default); onnx: the whole predictor as a graph; or the table as plain arrays: dense, or "
        "structured, one for each set of dimensions",
    )
    parser.add_argument("--layout", choices=("auto", *get_args(LayoutName)), help="auto (default): the smallest")
    parser.add_argument(
        "--dtype",
        choices=("auto", *get_args(DTypeName)),
        help="of the values; auto (default): the smallest that is no worse on the select rows than --tolerance says",
    )
    parser.add_argument("--tolerance", type=float, help=f"a share of the metric that decides (default: {TOLERANCE})")
    return parser


def _export(given: argparse.Namespace) -> None:
    wanted = _wanted(given)
    from dnis_lightning.exporting import export  # torch and Hydra load once the words are known to be good
    from dnis_lightning.folder import RunFolder, logging_early

    with logging_early():
        made = export(RunFolder(given.run), given.to, wanted)
    try:
        print(f"{_report(made)}\n{given.to}", flush=True)
    except BrokenPipeError:
        raise
    except OSError as fault:
        raise UserError(f"standard output: cannot be written ({fault.strerror}); {given.to} is whole") from fault


def _wanted(given: argparse.Namespace) -> Wanted:
    """Raises UserError for options that contradict each other."""
    tolerance = TOLERANCE if given.tolerance is None else given.tolerance
    if not 0 <= tolerance < math.inf:
        raise UserError(f"--tolerance {tolerance}: expected a share, 0 or above")
    if given.tolerance is not None and given.dtype not in (None, "auto"):
        raise UserError(f"--tolerance: nothing reads it with --dtype {given.dtype}; leave one of the two out")
    read = {"packed": ("layout", "dtype", "tolerance"), "onnx": ("dtype", "tolerance")}.get(given.format, ())
    for name in ("layout", "dtype", "tolerance"):
        if getattr(given, name) is not None and name not in read:
            raise UserError(f"--{name}: nothing reads it with --format {given.format}; leave it out")
    layout, dtype = (None if one == "auto" else one for one in (given.layout, given.dtype))
    if given.by is not None and given.budget in (None, "unpruned"):
        raise UserError("--by: which budget to cut to? write --budget cr:20, 10% or 25MiB")
    return Wanted(given.format, given.budget, given.by, layout, dtype if "dtype" in read else "fp32", tolerance)


def _report(made: Exported) -> str:
    """Bytes by part, the same table in other forms, and the metrics of what is shipped."""
    table, files = made.table, dict(made.files)
    lines: list[tuple[str, int]] = []
    if TABLE in files:
        lines.append((f"{TABLE} ({made.budget}: {table.layout.name}, {table.values.dtype})", files.pop(TABLE)))
        lines += [(f"  {part}", size) for part, size in table.parts.items()]
    for name, size in files.items():
        lines.append((name, size))
        lines += [(f"  {part}", inside) for part, inside in made.outside.items() if name == WEIGHTS]
    lines += [(f"the table as {name}", size) for name, size in made.others.items()]
    if made.resident is not None:
        lines.append(("memory of a process that reads table and raw ids", made.resident))
    width = max(len(name) for name, _ in lines)
    rows = [f"{name:<{width}}  {size / 2**20:>12,.3f} MiB" for name, size in lines]
    metrics = ", ".join(f"{name} {made.metrics[name]:.6g}" for name in headline(list(made.metrics)))
    return "\n".join([*rows, metrics] if metrics else rows)


if __name__ == "__main__":
    sys.exit(main())
