"""Every model with every search method, from data to result, on a small input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dnis_lightning.blueprint import rebuild
from dnis_lightning.scheme import Scheme
from tests.command import dnis
from tests.test_config import options

MODELS = options("model")
SMALL = (
    "data.rows=2000",
    "data.features_per_field=30",
    "data.batch_size=256",
    "data.dims=[3,1]",
    "search.base_dim=4",
    "search.blocks=3",
    "trainer.threads=1",
    "trainer.max_epochs=2",
    "prune.finetune_epochs=1",
    "data.default_rates=[2,5]",
)
FEWER = {
    "grid": ("search.first=2", "search.stride=2"),
    "random": ("search.trials=2",),
    "mde": ("search.temperatures=[0.5]",),
    "magnitude": ("prune.rounds=2", "prune.round_epochs=1"),
    "pep": ("prune.learned_epochs=2",),
    "nis_se": ("search.blocks=2", "prune.nis_epochs=1", "prune.nis_warm_up=1"),
    "nis_me": ("search.blocks=2", "prune.nis_epochs=1", "prune.nis_warm_up=0"),
    "dnis": ("search.search_epochs=2", "search.least_epochs=1"),
}
TRIALS = {"grid": ["dim=2", "dim=4"], "random": ["draw=0", "draw=1"], "mde": ["tau=0.5,base=2", "tau=0.5,base=4"]}
CUTS = {"magnitude", "pep", "nis_se", "nis_me", "dnis"}


@pytest.mark.parametrize("search", options("search"))
def test_every_model_goes_with_the_method(search: str, tmp_path: Path) -> None:
    # a controller shuts gates, as the search does; its runs are long, with two trainings for each cut
    models = ["deepfm", "mf", "neumf"] if search.startswith("nis") else MODELS
    done = dnis(tmp_path, "-m", *SMALL, f"search={search}", f"model={','.join(models)}", *FEWER.get(search, ()))
    assert done.returncode == 0, done.stderr
    folders = [path.parent for path in tmp_path.glob("outputs/*/*/result.json")]
    assert sorted(folder.parent.name for folder in folders) == [f"synthetic-{model}-{search}" for model in models]
    for folder in folders:
        check(folder, json.loads((folder / "result.json").read_text()), search)


def check(folder: Path, result: dict, search: str) -> None:
    """What a run leaves is whole, and says the same everywhere."""
    assert [trial["name"] for trial in result["trials"]] == TRIALS.get(search, [result["chosen_trial"]])
    assert result["chosen_trial"] == min(result["trials"], key=lambda trial: trial["select/mse"])["name"]
    tables = 2 if result["model"] == "neumf" else 1
    assert [cut["budget"] for cut in result["pruned"]] == (["cr:2", "cr:5"] if search in CUTS else [])
    for part, rate in zip([result["unpruned"], *result["pruned"]], [None, 2, 5], strict=False):
        assert np.isfinite(part["metrics"]["test/mse"])
        assert part["bytes"] >= 4 * part["kept"]
        if rate is not None:
            scheme, _ = Scheme.load(folder / "schemes" / f"cr-{rate}.safetensors")
            bound = result["features"] * 4 * tables // rate
            assert scheme.kept == part["kept"]
            least = {"nis_se": 0, "nis_me": 0, "dnis": bound - 4}.get(search, bound)  # a step is of up to K entries
            assert least <= part["kept"] <= bound
            assert rebuild(folder, f"cr:{rate}").scheme().kept == scheme.kept
    uncut = rebuild(folder)
    assert uncut.scheme().kept == result["unpruned"]["kept"]
    assert uncut.table.entries().shape[1] == tables * (result["chosen_dim"] or 4)
    if search == "mde":
        assert result["unpruned"]["projections"] == sum(tables * d * 4 for d in result["block_dims"] if d < 4)
