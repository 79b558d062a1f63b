"""What each ingredient of the default recipe is worth: the recipe with that ingredient changed: `make ablation`.

    python -m benchmarks.ablation                            # Movielens-100K, MF: an hour on two cores
    python -m benchmarks.ablation --only movielens-1m-mf --variant "no warm start" --variant "no penalty" --seeds 0
    python -m benchmarks.ablation --table                    # the table of what is there already

Test metrics as mean ± standard deviation over the seeds; Δ is the mean difference to the recipe, over seeds and cuts,
± half of its 95 % confidence interval over the seeds. Finished runs are passed over.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.results import cell, finished, slug, sweep
from dnis_lightning.report.tables import paired

OUTPUTS = Path("outputs/ablation")
CASES = {
    "movielens-100k-mf": (("data=movielens-100k", "model=mf"), 0.1),
    "movielens-1m-mf": (("data=movielens-1m", "model=mf"), 0.05),
}
"""Data and model, and the L2 that they have by default."""
BUDGETS = "search.budget=[20%,10%,5%]"
RECIPE = "the recipe"
VARIANTS: Mapping[str, tuple[str, ...]] = {
    RECIPE: (),
    "no search: turned axes alone": ("search=none", "prune=prefix"),
    "gradient of the gates left out, penalty alone": ("search.epsilon=1e6",),
    "no penalty": ("search.penalty=0",),
    "penalty 0.3": ("search.penalty=0.3",),
    "penalty before equation 8, 1e-5": ("search.penalty=1e-5", "search.penalty_stage=raw"),
    "step of α twice as large": ("search.gates_lr=0.1",),
    "step of α half as large": ("search.gates_lr=0.025",),
    "step of α by batch, 0.01, Adam": (
        "search.gates_lr=0.01",
        "search.gates_lr_per=step",
        "search.gates_optimizer=adam",
    ),
    "second order, ξ = 0.01": ("search.xi=0.01",),
    "no warm start": ("search.warm_start=0",),
    "warm start of 10 epochs": ("search.warm_start=10",),
    "the search moves the tables alone": ("search.tables_only=true",),
    "5 epochs of search": ("search.search_epochs=5",),
    "30 epochs of search": ("search.search_epochs=30",),
    "fit from the search's weights": ("search.fit_fresh=false",),
    "no fit after the search": ("search.fit_epochs=0",),
    "1 block": ("search.blocks=1",),
    "30 blocks": ("search.blocks=30",),
    "blocks by field": ("search.blocks_per=field",),
    "search rows are select rows": ("data.split=paper",),
    "single entries (equation 9)": ("prune=elements",),
    "whole gates": ("prune=gates",),
    "frequency left out": ("prune.frequency_power=0",),
    "frequency by half": ("prune.frequency_power=0.25",),
    "cut in rounds": ("prune.schedule=iterative",),
    "no fine-tuning": ("prune.finetune_epochs=0",),
    "fixed learning rate": ("optimizer.plateau_patience=null",),
    "L2 half as large": ("model.l2={half:g}",),
    "L2 twice as large": ("model.l2={twice:g}",),
}


def main() -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES, action="append")
    parser.add_argument("--variant", choices=VARIANTS, action="append", help="one of them; may be repeated")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--table", action="store_true", help="run nothing, print the tables of what is there")
    given = parser.parse_args()
    chosen = given.variant or list(VARIANTS)
    for case in given.only or ["movielens-100k-mf"]:
        if not given.table:
            _run(case, chosen, given.seeds)
        print("\n".join(_markdown(case)), flush=True)


def _run(case: str, chosen: list[str], seeds: str) -> None:
    for variant in [RECIPE, *(one for one in chosen if one != RECIPE)]:
        places = [f"output_dir={_folder(case, variant)}", "hydra/launcher=local", "sweep.jobs=2"]
        if sweep([*arguments_of(case, variant), f"seed={seeds}", *places]):
            sys.exit(1)


def arguments_of(case: str, variant: str) -> list[str]:
    """Of a run, but for its seed and its place."""
    shared, l2 = CASES[case]
    return [*shared, BUDGETS, *(one.format(half=l2 / 2, twice=l2 * 2) for one in VARIANTS[variant])]


def _folder(case: str, variant: str) -> Path:
    return OUTPUTS / case / slug(variant)


def _markdown(case: str) -> Iterator[str]:
    runs = {variant: {run["seed"]: run for _, run in finished(_folder(case, variant))} for variant in VARIANTS}
    recipe = runs[RECIPE]
    if not recipe:
        return
    cuts = [cut["budget"] for cut in next(iter(recipe.values()))["pruned"]]
    yield from ("", f"### {case}: test MSE", "", f"| | whole | {' | '.join(cuts)} | Δ | minutes |")
    yield f"|---|---|{'---|' * len(cuts)}---|---|"
    for variant, found in runs.items():
        if found:
            values = {seed: [run["unpruned"], *run["pruned"]] for seed, run in found.items()}
            cells = [cell([_test(parts[number]) for parts in values.values()]) for number in range(len(cuts) + 1)]
            minutes = statistics.mean(run["seconds"]["total"] for run in found.values()) / 60
            yield f"| {variant} | {' | '.join(cells)} | {_difference(found, recipe)} | {minutes:.1f} |"


def _test(part: Mapping[str, Any]) -> float:
    return float(part["metrics"]["test/mse"])


def _difference(found: Mapping[int, Mapping[str, Any]], recipe: Mapping[int, Mapping[str, Any]]) -> str:
    """Over the seeds of both, of the means over cuts."""
    ours, theirs = (
        pd.Series({seed: statistics.mean(map(_test, run["pruned"])) for seed, run in runs.items()})
        for runs in (found, recipe)
    )
    if found is recipe:
        return "–"
    difference, half, _ = paired(ours, theirs)
    return f"{difference:+.4f} ± {half:.4f}" if np.isfinite(half) else f"{(ours - theirs).mean():+.4f}"


if __name__ == "__main__":
    main()
