"""The README's commands on real data, briefly; and, slowly, that the default search costs no accuracy."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from tests.command import dnis, result_of
from tests.data.conftest import real_data  # noqa: F401

BRIEFLY = (
    "trainer.max_epochs=1",
    "search.search_epochs=1",
    "search.least_epochs=1",
    "search.base_dim=4",
    "search.rates=[5]",
)
COMMANDS = {
    ("model=mf", "data=movielens-1m"): 1_000_209,
    ("model=fm", "data=movielens-100k", "profile=authors", "seed=1"): 120_000,
    ("model=neumf", "data=movielens-100k", "data.task=topk"): 100_000,
    ("model=fm", "data=criteo"): 137_139,
}
"""And how many rows the parts have together."""


@pytest.mark.data
@pytest.mark.parametrize("arguments", COMMANDS)
def test_the_commands_of_the_readme_run(arguments: tuple[str, ...], real_data: Path, tmp_path: Path) -> None:  # noqa: F811
    briefly = [*BRIEFLY, "prune.finetune_epochs=1", "search.warm_start=1"]
    _, result = result_of(dnis(tmp_path, *arguments, f"data.root={real_data}", *briefly))
    assert sum(result["rows"].values()) == COMMANDS[arguments]


@pytest.mark.data
@pytest.mark.slow
def test_the_default_search_costs_no_accuracy(real_data: Path, tmp_path: Path) -> None:  # noqa: F811
    """Unpruned, same K, same L2, three seeds: its mean test error exceeds the plain table's by less than the spread."""
    errors: dict[str, list[float]] = {}
    for search in ("none", "dnis"):
        arguments = ("model=mf", "data=movielens-100k", f"data.root={real_data}", f"search={search}", "search.rates=[]")
        runs = [result_of(dnis(tmp_path, *arguments, f"seed={seed}", timeout=500)) for seed in range(3)]
        errors[search] = [result["unpruned"]["metrics"]["test/mse"] for _, result in runs]
    assert statistics.mean(errors["dnis"]) <= statistics.mean(errors["none"]) + statistics.stdev(errors["none"])
