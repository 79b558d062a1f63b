"""What the paper's two tables cost at full size: time of an epoch and memory, of a plain table and of the search.

    python -m benchmarks.cost                 # on a quiet machine; about a quarter of an hour
    python -m benchmarks.cost --only criteo
    python -m benchmarks.cost --table         # what is there already

Each line is one epoch of a real run, `python -m dnis_lightning … profile=paper`, on made-up data with as many features
as the paper's but fewer rows: a step costs the same however many rows follow. All features are equally frequent, which
is the worst case for caches. The epoch's seconds per row, times the rows of the training split (80 %), give an epoch at
full size. Results lie in outputs/cost.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.runs import results_in

OUTPUTS = Path("outputs/cost")
TRAIN_SHARE, BATCH = 0.8, 4096
METHODS = ("none", "dnis")


@dataclass(frozen=True)
class Size:
    """Data of the paper's Table 1, and the made-up data that stands for it.

    Attributes:
        rows: how many the real data has.
        models: those of the paper's table.
        made_up: settings; features_per_field is so large that about as many occur in train as the real data has.
    """

    rows: int
    models: tuple[str, ...]
    made_up: tuple[str, ...]


SIZES = {
    "movielens-20m": Size(
        20_000_263,
        ("mf", "mlp", "neumf"),
        ("data.rows=500000", "data.field_count=2", "data.features_per_field=83000", "search.blocks=10"),
    ),
    "criteo": Size(
        45_840_617,
        ("fm", "wide_deep", "deepfm"),
        (
            "data.rows=100000",
            "data.field_count=39",
            "data.features_per_field=92000",
            "search.blocks=6",
            "data.task=ctr",
        ),
    ),
}


def main() -> None:
    """Run what is missing and print the table as markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SIZES, action="append")
    parser.add_argument("--table", action="store_true", help="run nothing, print the table of what is there")
    given = parser.parse_args()
    chosen = {name: size for name, size in SIZES.items() if not given.only or name in given.only}
    if not given.table:
        for name, size in chosen.items():
            for model in size.models:
                for method in METHODS:
                    _run(name, size, model, method)
    print("\n| data | model | | features | s a step | rows/s | hours an epoch | peak GiB |")
    print(f"|{'---|' * 8}")
    for name, size in chosen.items():
        print("\n".join(_lines(name, size)))


def _run(name: str, size: Size, model: str, method: str) -> None:
    folder = OUTPUTS / name / f"{model}-{method}"
    if any(folder.glob("*/*/result.json")):
        return
    arguments = ["data=synthetic", *size.made_up, "data.zipf=0", f"model={model}", f"search={method}", "profile=paper"]
    arguments += [
        "trainer.max_epochs=1",
        "search.rates=[]",
        f"data.batch_size={BATCH}",
        f"data.cache={OUTPUTS / 'cache'}",
        f"output_dir={folder}",
    ]
    print(f"\n$ python -m dnis_lightning {shlex.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "dnis_lightning", *arguments], check=True)


def _lines(name: str, size: Size) -> Iterator[str]:
    for model in size.models:
        for method in METHODS:
            for folder, result in results_in(OUTPUTS / name / f"{model}-{method}"):
                with (folder / "metrics.csv").open(newline="") as lines:
                    rate = float(next(csv.DictReader(lines))["rows/s"])
                what = "plain table" if method == "none" else "search"
                hours = TRAIN_SHARE * size.rows / rate / 3600
                memory = result["peak_rss_mib"] / 1024
                yield (
                    f"| {name} | {model} | {what} | {result['features']:,} | "
                    f"{BATCH / rate:.3g} | {rate:,.0f} | {hours:.3g} | {memory:.2g} |"
                )


if __name__ == "__main__":
    main()
