"""Test metric against real bytes, for 29 contenders: all methods but grid search and NIS: `make frontier`.

    python -m benchmarks.frontier                              # everything; hours
    python -m benchmarks.frontier --only movielens-100k-mf     # one data set and model
    python -m benchmarks.frontier --only movielens-1m-mf --methods uniform,DNIS --seeds 0,1 --widths 3,12,64 --one-l2
    python -m benchmarks.frontier --only criteo-deepfm --also optimizer.lr=0.001    # of another recipe
    python -m benchmarks.frontier --table                      # the tables and pictures of what is there already

Budgets are shares of the bytes of the plain table with K = 64. Plain tables of every width are there with three L2
each; all other methods start from K = 64, and have the L2 that is best there. For each method and budget the seed's
table that is best on select counts, of those that fit (so random search and MDE are run from several widths on); its
test metric is given, as mean ± standard deviation over the seeds. Split, epochs, stopping and fine-tuning are the same
for all, tables that are not cut included. Finished runs are passed over, so that what was cut short goes on. DNIS_DATA
names the folder of the raw data. Those of other defaults count, too: empty outputs/frontier after an update.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.runs import TUNED_TWEETS, Row, cell, finished, refuse_absent, slug, sweep

SEEDS = (0, 1, 2)
SHARES = (100, 50, 20, 10, 5, 2)
WIDTHS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 32, 64)
HEADER = 1024
"""Bytes that a file may take more than its share, for what is not of the table."""
OUTPUTS = Path("outputs/frontier")
WHOLE = ("MDE", "random")
"""Methods that end with a table that is not cut."""


@dataclass(frozen=True)
class Case:
    """Data and model. metric: on test, by which tables are compared, a loss. tables: that the model has side by side.

    l2: of the rows, three, of which the second is tuned at K = 64. biases: arguments for K = 0, whose biases want an L2
    of their own where rows are few.
    """

    name: str
    title: str
    arguments: tuple[str, ...]
    metric: str
    l2: tuple[float, float, float]
    tables: int = 1
    biases: tuple[str, ...] = ()

    def with_also(self, also: Sequence[str]) -> Case:
        """The same with more arguments, in a folder of its own."""
        words = [self.name, *also]
        return replace(self, name=slug(" ".join(words)), arguments=(*self.arguments, *also))


MT = (*TUNED_TWEETS, "trainer.max_epochs=300")
ML_100K = ("data=movielens-100k", "trainer.max_epochs=300")
ML_1M = ("data=movielens-1m", "trainer.max_epochs=300")
CRITEO = ("data=criteo", "trainer.max_epochs=300")
TOWER = ("model.hidden=[128,64]", "model.l2_net=1e-3")
CASES = (
    Case("movielens-100k-mf", "Movielens-100K, MF", (*ML_100K, "model=mf"), "mse", (0.5, 1.0, 2.0)),
    Case("movielens-100k-neumf", "Movielens-100K, NeuMF", (*ML_100K, "model=neumf"), "mse", (0.03, 0.1, 0.3), 2),
    Case("movielens-1m-mf", "Movielens-1M, MF", (*ML_1M, "model=mf"), "mse", (0.4, 0.8, 1.6)),
    Case("movielens-1m-neumf", "Movielens-1M, NeuMF", (*ML_1M, "model=neumf"), "mse", (0.03, 0.1, 0.3), 2),
    Case(
        "movietweetings-mf",
        "MovieTweetings, MF",
        (*MT, "model=mf"),
        "mse",
        (2.5, 3.0, 4.0),
        biases=("model.l2_bias=1.5", "model.l2_power=1"),
    ),
    Case("criteo-fm", "Criteo, FM", (*CRITEO, "model=fm"), "logloss", (30.0, 100.0, 300.0)),
    Case("criteo-deepfm", "Criteo, DeepFM", (*CRITEO, "model=deepfm", *TOWER), "logloss", (30.0, 100.0, 300.0)),
)


METHODS = {
    **{f"mde_{width}": "MDE" for width in (64, 32, 16, 8, 4, 2)},
    **dict.fromkeys(("random", "random_25", "random_12", "random_6", "random_2"), "random"),
    **{f"magnitude_{schedule}": f"magnitude {schedule}" for schedule in ("one_shot", "iterative", "gradual")},
    "pep": "PEP",
    "turned": "turned axes alone",
    "unsearched": "DNIS without its search",
    "dnis": "DNIS",
}
"""What the contenders beside plain tables are called."""


def rows_of(case: Case, budgets: str, widths: Sequence[int] = WIDTHS, *, one_l2: bool = False) -> Iterator[Row]:
    """All contenders; budgets: as the value of a key; widths: of plain tables, and whether these have one L2 alone."""
    l2 = f"model.l2={','.join(f'{one:g}' for one in (case.l2[1:2] if one_l2 else case.l2))}"
    for width in widths:
        yield Row("uniform", (f"contender=uniform_{width}", l2, *(() if width else case.biases)))
    for contender, label in METHODS.items():
        cuts = () if label in WHOLE else (f"data.default_budget={budgets}",)
        yield Row(label, (f"contender={contender}", *cuts, f"model.l2={case.l2[1]:g}"))


def main() -> None:
    """Run what is missing; print the tables as markdown, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[case.name for case in CASES], action="append")
    parser.add_argument("--methods", help="some of them, with commas between")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument(
        "--widths", default=",".join(map(str, WIDTHS)), help="of plain tables, those that are contenders"
    )
    parser.add_argument("--one-l2", action="store_true", help="of plain tables, the one that is tuned at K = 64")
    parser.add_argument("--also", metavar="KEY=VALUE", action="append", default=[], help="another recipe; repeatable")
    parser.add_argument("--table", action="store_true", help="run nothing, print the tables of what is there")
    given = parser.parse_args()
    known = dict.fromkeys(("uniform", *METHODS.values()))
    if unknown := [one for one in (given.methods or "uniform").split(",") if one not in known]:
        parser.error(f"--methods: there is no {', '.join(unknown)}; there is {', '.join(known)}")
    if unknown := [one for one in given.widths.split(",") if one not in map(str, WIDTHS)]:
        parser.error(f"--widths: {', '.join(unknown)} is no contender; {', '.join(map(str, WIDTHS))} are")
    if given.table:
        refuse_absent(OUTPUTS, parser)
    for case in [case.with_also(given.also) for case in CASES if not given.only or case.name in given.only]:
        if not given.table:
            widths = [int(width) for width in given.widths.split(",")]
            rows = partial(rows_of, widths=widths, one_l2=given.one_l2)
            _run(case, rows, given.methods and given.methods.split(","), given.seeds)
        print("\n".join(_markdown(case)), flush=True)
        _draw(case)


def _run(case: Case, rows: Callable[[Case, str], Iterator[Row]], methods: list[str] | None, seeds: str) -> None:
    """The runs of a case; how many features it has, and so what budgets are in bytes, is known from the first."""
    _sweep(case, next(rows(case, "[]")), seeds)
    for row in rows(case, f"[{','.join(_budgets(case).values())}]"):
        if methods is None or row.label in methods:
            _sweep(case, row, seeds)


def _sweep(case: Case, row: Row, seeds: str) -> None:
    places = [f"output_dir={OUTPUTS / case.name}", "hydra/launcher=local", "sweep.jobs=2"]
    if sweep([*case.arguments, *row.arguments, f"seed={seeds}", *places]):
        sys.exit(1)


def _budgets(case: Case) -> dict[int, str]:
    """What a share of the plain table's bytes is called as a budget; the whole is none."""
    limits = _limits(case, next(_results(case)))
    return {share: f"{limit / 2**20:.6f}MiB" for share, limit in limits.items() if share < 100}


def _limits(case: Case, run: Mapping[str, Any]) -> dict[int, float]:
    """The most bytes that a file may have at each share."""
    whole = 4 * 64 * case.tables * run["features"]
    return {share: whole * share / 100 + HEADER for share in SHARES}


def _markdown(case: Case) -> Iterator[str]:
    runs = list(_results(case))
    if not runs:
        return
    limits = _limits(case, runs[0])
    yield from ("", f"### {case.title}: test {case.metric}", "")
    yield f"| | {' | '.join(f'{share} %, {limit / 2**20:.3f} MiB' for share, limit in limits.items())} | minutes |"
    yield f"|---|{'---|' * (len(SHARES) + 1)}"
    for label in dict.fromkeys(row.label for row in rows_of(case, "[]")):
        own = [run for run in runs if run["label"] == label]
        if not own:
            continue
        cells = [cell([_best(case, own, seed, limit) for seed in _seeds(own)]) for limit in limits.values()]
        minutes = sum(run["seconds"]["total"] for run in own) / len(own) / 60
        yield f"| {label} | {' | '.join(cells)} | {minutes:.1f} |"
    none = [run for run in runs if run["label"] == "uniform" and run["base_dim"] == 0]
    if none:
        yield f"| no embedding, K = 0 | {cell([_best(case, none, seed, HEADER) for seed in _seeds(none)])} |"


def _seeds(runs: list[dict[str, Any]]) -> list[int]:
    return sorted({run["seed"] for run in runs})


def _best(case: Case, runs: list[dict[str, Any]], seed: int, limit: float) -> float | None:
    """The test metric of the table of a seed that is best on select, of those that fit."""
    parts = [part for run in runs if run["seed"] == seed for part in (run["unpruned"], *run["pruned"])]
    fitting = [part["metrics"] for part in parts if part["bytes"] <= limit]
    if not fitting:
        return None
    return float(min(fitting, key=lambda one: one[f"select/{case.metric}"])[f"test/{case.metric}"])


def _results(case: Case) -> Iterator[dict[str, Any]]:
    for config, result in finished(OUTPUTS / case.name):
        yield result | {"label": _label(config)}


def _label(config: Mapping[str, Any]) -> str:
    """Which method a run is of, by its configuration."""
    search, prune = config["search"], config["prune"]
    if search["name"] != "none":
        return {"mde": "MDE", "random": "random", "pep": "PEP", "dnis": "DNIS"}[search["name"]]
    if not search["budget"]:
        return "uniform"
    cut_by = {"prefix": METHODS["turned"], "best": METHODS["unsearched"]}
    return cut_by.get(prune["by"], f"magnitude {prune['schedule']}")


def _draw(case: Case) -> None:
    """One picture: the metric against bytes, each method's best on select at each size, with the seeds' spread."""
    runs = list(_results(case))
    if not runs:
        return
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    limits = list(_limits(case, runs[0]).values())
    for label in dict.fromkeys(row.label for row in rows_of(case, "[]")):
        own = [run for run in runs if run["label"] == label]
        points = [(limit, [_best(case, own, seed, limit) for seed in _seeds(own)]) for limit in limits]
        known = [(limit, [one for one in values if one is not None]) for limit, values in points]
        known = [(limit, values) for limit, values in known if values]
        if known:
            sizes = [limit / 2**20 for limit, _ in known]
            means = [sum(values) / len(values) for _, values in known]
            spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in known]
            strong = label in ("DNIS", "uniform")
            axes.errorbar(sizes, means, spread, label=label, marker="o", lw=2.5 if strong else 1, capsize=3, ms=4)
    axes.set(xscale="log", xlabel="bytes of the table's file, MiB", ylabel=f"test {case.metric}", title=case.title)
    axes.set_xticks([limit / 2**20 for limit in limits], [f"{limit / 2**20:.3g}" for limit in limits])
    axes.minorticks_off()
    axes.legend(fontsize="small")
    path = OUTPUTS / f"{case.name}.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"\n{path}")


if __name__ == "__main__":
    main()
