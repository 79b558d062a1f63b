"""What each ingredient of the default recipe is worth: the recipe with that ingredient changed: `make ablation`.

    python -m benchmarks.ablation                            # Movielens-100K, MF: an hour on two cores
    python -m benchmarks.ablation --only movielens-1m-mf --variant "no warm start" --variant "no penalty" --seeds 0
    python -m benchmarks.ablation --also data.default_l2_power=0 --also data.default_l2=0.1    # of another recipe
    python -m benchmarks.ablation --table                    # the table of what is there already

Test metrics as mean ± standard deviation over the seeds; Δ is the mean difference to the recipe, over seeds and cuts, ±
half of its 95 % confidence interval over the seeds. Finished runs are passed over. Those of other defaults count, too:
empty outputs/ablation after an update.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.runs import TUNED_TWEETS, cell, launch, refuse_absent, results_in, slug, sweep
from dnis_lightning.report.tables import paired

OUTPUTS = Path("outputs/ablation")
CASES = {
    "movielens-100k-mf": (("data=movielens-100k", "model=mf"), 1.0),
    "movielens-100k-neumf": (("data=movielens-100k", "model=neumf"), 0.1),
    "movielens-1m-mf": (("data=movielens-1m", "model=mf"), 0.8),
    "movietweetings-mf": ((*TUNED_TWEETS, "model=mf", "model.l2=3"), 3.0),
}
"""Data and model, and the L2 that they have."""
COUNTS = "search.start_counts=false"
BUDGETS = "search.budget=[20%,10%,5%]"
SINGLE = ("search.blocks=1000000", "search.blocks_per=field")
RECIPE = "the recipe"
VARIANTS: Mapping[str, tuple[str, ...]] = {
    RECIPE: (),
    "no search: turned axes alone": ("search=none", "prune=prefix"),
    "no search, cut as after one": ("search=none", "prune=best"),
    "gradient of the gates left out, penalty alone": ("search.epsilon=1e6",),
    "no penalty": ("search.penalty=0",),
    "penalty 0.3": ("search.penalty=0.3",),
    "penalty before equation 8, 1e-5": ("search.penalty=1e-5", "search.penalty_stage=raw"),
    "step of α four times as large": ("search.gates_lr=0.8",),
    "step of α twice as large": ("search.gates_lr=0.4",),
    "step of α half as large": ("search.gates_lr=0.1",),
    "step of α a quarter as large": ("search.gates_lr=0.05",),
    "step of α by batch, 0.01, Adam": (
        "search.gates_lr=0.01",
        "search.gates_lr_per=step",
        "search.gates_optimizer=adam",
    ),
    "second order, ξ = 0.01": ("search.xi=0.01",),
    "second order, ξ = 10": ("search.xi=10",),
    "no warm start": ("search.warm_start=0",),
    "warm start of 10 epochs": ("search.warm_start=10",),
    "the search moves the tables alone": ("search.tables_only=true",),
    "the learning rate falls in the search, too": ("search.search_plateau=true",),
    "5 epochs of search": ("search.search_epochs=5",),
    "20 epochs of search": ("search.search_epochs=20", "search.search_patience=20"),
    "epochs of the search count from the first": ("search.least_epochs=1",),
    "a search behind its start goes on": ("search.give_up=0",),
    "fit from the search's weights": ("search.fit_fresh=false",),
    "no fit after the search": ("search.fit_epochs=0",),
    "1 block": ("search.blocks=1",),
    "30 blocks": ("search.blocks=30",),
    "blocks by field": ("search.blocks_per=field",),
    "search rows are select rows": ("data.split=paper",),
    "these rows, no search": ("data.split=paper", "search=none", "prune=best"),
    "first dimensions alone": ("prune=prefix",),
    "single entries (equation 9)": ("prune=elements",),
    "whole gates": ("prune=gates",),
    "frequency left out": ("prune.frequency_power=0",),
    "frequency by half": ("prune.frequency_power=0.25",),
    "cut in rounds": ("prune.schedule=iterative",),
    "no fine-tuning": ("prune.finetune_epochs=0",),
    "fine-tuning of 20 epochs at most": ("prune.finetune_epochs=20",),
    "fine-tuning of 200 epochs at most": ("prune.finetune_epochs=200",),
    "fixed learning rate": ("optimizer.plateau_patience=null",),
    "learning rate lowered without end": ("optimizer.plateau_floor=0",),
    "L2 half as large": ("model.l2={half:g}",),
    "L2 twice as large": ("model.l2={twice:g}",),
    "K = 32, cut to as many entries": ("search.base_dim=32", "search.budget=[40%,20%,10%]"),
    "K = 128, cut to as many entries": ("search.base_dim=128", "search.budget=[10%,5%,2.5%]"),
    "1,000 blocks": ("search.blocks=1000",),
    "a block for each feature": SINGLE,
    "blocks by decades of frequency": ("search.blocking=decades",),
    "blocks of equal frequency in all": ("search.blocking=mass",),
    "search kept, whatever select says": (COUNTS,),
    "search kept, penalty alone": (COUNTS, "search.epsilon=1e6"),
}
AVERAGED = "two searches, search and select swapped, mean of their gates"
REPLACED: Mapping[str, tuple[str, ...]] = {
    "gradient of the gates replaced by noise": ("noise",),
    "gradient of the gates replaced by magnitude": ("magnitude",),
    "search kept, noise in place of the gradient": ("noise", COUNTS),
    "search kept, magnitude in place of the gradient": ("magnitude", COUNTS),
    "penalty that grows along k": ("growing",),
    "gates on turned axes, penalty that grows along k": ("ordered",),
    "L2 on rows behind the gates": ("shrunk-as-gated",),
    "single entries within first dimensions": ("finer",),
    "gradient compared between blocks": ("between-blocks",),
    "gates stand still where their gradient is noise": ("frozen-where-noise",),
    "entries by what select loses without them": ("by-loss-of-select",),
    "penalty steered to a tenth of the gates": ("steered",),
    "search kept, penalty steered to a tenth of the gates": ("steered", COUNTS),
    "search kept, penalty steered to a fifth of the gates": ("steered:20", COUNTS),
    "search kept, penalty steered to a twentieth of the gates": ("steered:5", COUNTS),
    "a length of each block is learned": ("learned-lengths",),
    "search kept, a length of each block is learned": ("learned-lengths", COUNTS),
    "a length of each block is learned on turned axes": ("lengths-on-axes",),
    "the optimizer's moments are carried into the search": ("moments-carried",),
    "entries between blocks by the gradient of select": ("by-gradient-of-select",),
    "1,000 blocks, prior shared with neighbours": ("shared-prior", "search.blocks=1000"),
    "a block for each feature, prior shared with neighbours": ("shared-prior", *SINGLE),
    AVERAGED: ("given", "search.warm_start=0", "search.search_epochs=1", "search.least_epochs=1"),
    "single entries trained in any case": ("every-rival",),
    "the table before the search not cut": ("start-uncut",),
    "the table before the search stays by any lead": ("any-lead",),
    "unseen ids not counted": ("unseen-uncounted",),
    "fine-tuning from the initial values": ("from-the-start", "prune.finetune_epochs=100"),
}
"""Those that `benchmarks.untaken` runs: its argument, and those of the main command."""
JOBS = 2


def main() -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES, action="append")
    parser.add_argument(
        "--variant", choices=[*VARIANTS, *REPLACED], action="append", help="one of them; may be repeated"
    )
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--also", metavar="KEY=VALUE", action="append", default=[], help="another recipe; repeatable")
    parser.add_argument("--table", action="store_true", help="run nothing, print the tables of what is there")
    given = parser.parse_args()
    if given.table:
        refuse_absent(OUTPUTS, parser)
    chosen = given.variant or [*VARIANTS, *REPLACED]
    for case in given.only or ["movielens-100k-mf"]:
        if not given.table:
            _run(case, chosen, given.seeds, given.also)
        print("\n".join(_markdown(case, given.also)), flush=True)


def _run(case: str, chosen: list[str], seeds: str, also: Sequence[str]) -> None:
    for variant in [RECIPE, *(one for one in chosen if one in VARIANTS and one != RECIPE)]:
        places = [f"output_dir={_folder(case, variant, also)}", "hydra/launcher=local", f"sweep.jobs={JOBS}"]
        if sweep([*arguments_of(case, variant, also), f"seed={seeds}", *places]):
            sys.exit(1)
    pairs = [(variant, seed) for variant in chosen if variant in REPLACED for seed in seeds.split(",")]
    with ThreadPoolExecutor(JOBS) as pool:
        list(pool.map(lambda pair: _run_replaced(case, pair[0], pair[1], also), pairs))


def _run_replaced(case: str, variant: str, seed: str, also: Sequence[str]) -> None:
    name, *arguments = REPLACED[variant]
    if variant == AVERAGED:
        second = f"{variant}, the second search"
        _untaken("swapped", case, second, ["search.fit_epochs=0", "search.budget=[]"], seed, also)
        name = ":".join(["given", *(str(_folders(case, one, also)[seed]) for one in (RECIPE, second))])
    _untaken(name, case, variant, arguments, seed, also)


def _untaken(name: str, case: str, variant: str, arguments: list[str], seed: str, also: Sequence[str]) -> None:
    """One run of `benchmarks.untaken`, unless it is there."""
    if seed not in _folders(case, variant, also):
        shared = (*CASES[case][0], BUDGETS, *also, f"seed={seed}", f"output_dir={_folder(case, variant, also)}")
        if launch("benchmarks.untaken", name, *shared, *arguments):
            sys.exit(1)


def _folders(case: str, variant: str, also: Sequence[str]) -> dict[str, Path]:
    """Of the finished runs, by seed."""
    return {str(run["seed"]): folder for folder, run in results_in(_folder(case, variant, also))}


def arguments_of(case: str, variant: str, also: Sequence[str] = ()) -> list[str]:
    """Of a run, but for its seed and its place."""
    shared, l2 = CASES[case]
    return [*shared, BUDGETS, *also, *(one.format(half=l2 / 2, twice=l2 * 2) for one in VARIANTS[variant])]


def _folder(case: str, variant: str, also: Sequence[str] = ()) -> Path:
    return OUTPUTS / slug(" ".join([case, *also])) / slug(variant)


def _markdown(case: str, also: Sequence[str] = ()) -> Iterator[str]:
    everything = [*VARIANTS, *REPLACED]
    runs = {
        variant: {run["seed"]: run for _, run in results_in(_folder(case, variant, also))} for variant in everything
    }
    recipe = runs[RECIPE]
    if not recipe:
        return
    cuts = [cut["budget"] for cut in next(iter(recipe.values()))["pruned"]]
    yield from ("", f"### {' '.join([case, *also])}: test MSE", "", f"| | whole | {' | '.join(cuts)} | Δ | minutes |")
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
