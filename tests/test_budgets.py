"""Budgets in bytes and in loss, end to end, with the first dimensions of turned tables."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from dnis_lightning.blueprint import rebuild
from dnis_lightning.packed import PackedEmbedding
from tests.command import TINY, dnis, result_of


@pytest.mark.parametrize("model", ["mf", "dcn"])
def test_a_run_keeps_to_bytes_and_to_loss(model: str, tmp_path: Path) -> None:
    budgets = ("search.budget=[2KiB,loss:2%]", "prune.finetune_epochs=1")
    folder, result = result_of(dnis(tmp_path, *TINY, f"model={model}", "search=none", "prune=prefix", *budgets))
    of_bytes, of_loss = result["pruned"]  # type: ignore[misc]
    size = (folder / "embedding" / "2KiB" / "table.safetensors").stat().st_size
    assert of_bytes["bytes"] == size
    assert 0.9 * 2048 < size <= 2048
    whole = result["unpruned"]["metrics"]["select/mse"]  # type: ignore[index]
    assert of_loss["metrics"]["select/mse"] <= 1.02 * whole
    assert of_loss["kept"] < result["unpruned"]["kept"]  # type: ignore[index]
    for cut in (of_bytes, of_loss):
        table = PackedEmbedding.open(folder / "embedding" / cut["budget"].replace(":", "-")).table
        assert table.layout.name == cut["layout"]
        assert table.layout.name in ("prefix", "blocks"), "of a few dozen features runs may take less"
        kept = rebuild(folder, cut["budget"]).table.kept().numpy()
        lengths = kept.sum(1)
        assert np.array_equal(kept, np.arange(kept.shape[1]) < lengths[:, None])
        column = "dims" if cut is of_bytes else f"dims@{cut['budget']}"
        told = [int(row[column]) for row in csv.DictReader((folder / "dims.csv").open())]
        assert told == lengths.tolist()


def test_rounds_of_prefixes_keep_to_bytes_to_the_end(tmp_path: Path) -> None:
    rounds = ("prune.schedule=iterative", "prune.rounds=3", "prune.round_epochs=3")
    data = ("data=synthetic", "data.rows=5000", "data.features_per_field=100", "search.base_dim=8")
    given = [*data, "trainer.max_epochs=3", "search=none", "prune=prefix", *rounds, "search.budget=[1KiB,2KiB,3KiB]"]
    _, result = result_of(dnis(tmp_path, *given))
    sizes = [cut["bytes"] for cut in result["pruned"]]  # type: ignore[attr-defined]
    assert all(0.9 * most < size <= most for size, most in zip(sizes, (1024, 2048, 3072), strict=True)), sizes


def test_learned_thresholds_keep_to_bytes(tmp_path: Path) -> None:
    """What is left above them lies elsewhere than the largest entries, and as many take more bytes."""
    learned = ("prune.learned_epochs=20", "prune.learned_lr=2", "prune.learned_start=-4", "ship.layout=blocks")
    _, result = result_of(dnis(tmp_path, *TINY, "search=pep", *learned, "search.budget=[bytes:60%,bytes:40%]"))
    features: int = result["features"]  # type: ignore[assignment]
    for cut, share in zip(result["pruned"], (0.6, 0.4), strict=True):  # type: ignore[arg-type]
        most = share * 4 * 6 * features
        assert 0.95 * most < cut["bytes"] <= most


def test_a_rate_that_keeps_nothing_says_nothing_of_bytes(tmp_path: Path) -> None:
    done = dnis(tmp_path, *TINY, "search=none", "search.budget=cr:1000000", "prune.finetune_epochs=0")
    assert done.returncode == 0, done.stderr
    assert "nothing is kept of the table" in done.stderr
    assert "even so its file is larger" not in done.stderr
    warnings: list[str] = result_of(done)[1]["warnings"]  # type: ignore[assignment]
    assert "cr:1000000: nothing of the table is kept; take a larger budget" in warnings


def test_bytes_that_no_cut_takes_are_told_before_the_run(tmp_path: Path) -> None:
    for given in (["search.budget=0.1KiB"], ["search.budget=[10%,1KiB]", "ship.layout=dense"]):
        done = dnis(tmp_path, *TINY, "search=none", *given)
        assert done.returncode == 1
        assert "with nothing kept" in done.stderr
        assert "take a larger budget" in done.stderr
        assert not (tmp_path / "outputs").exists()
