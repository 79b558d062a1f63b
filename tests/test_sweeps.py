"""Many jobs by one command: launchers, faults, what is passed over, their runs on W&B."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command import TINY, dnis
from tests.training.test_wandb_panels import history, records

NONE = (*TINY, "search=none", "trainer.max_epochs=1")


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_all_jobs_run_and_all_faults_are_told(launcher: str, tmp_path: Path) -> None:
    sweep = ("-m", *NONE, f"hydra/launcher={launcher}", "search.base_dim=2,3", "search.blocks=4,500")
    done = dnis(tmp_path, *sweep)
    assert done.returncode == 1
    assert done.stderr.count("500 blocks for 122 features") == 2
    assert "Traceback" not in done.stderr
    assert len(list(tmp_path.glob("outputs/*/*/result.json"))) == 2
    assert len(list(tmp_path.glob("outputs/synthetic*/*"))) == 2
    assert not (tmp_path / "multirun.yaml").exists()


def test_finished_jobs_are_passed_over(tmp_path: Path) -> None:
    dnis(tmp_path, "-m", *NONE, "seed=0,1")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("outputs/*/*/result.json")}
    assert len(before) == 2
    done = dnis(tmp_path, "-m", *NONE, "seed=0,1,2", "resume=auto")
    assert done.returncode == 0
    assert done.stderr.count("already finished") == 2
    after = {path: path.stat().st_mtime_ns for path in tmp_path.glob("outputs/*/*/result.json")}
    assert len(after) == 3
    assert before.items() <= after.items()


def test_a_sweep_is_a_group_of_runs_on_wandb(tmp_path: Path) -> None:
    offline = ("logger=wandb", "logger.mode=offline", "seed=0,1")
    quick = ("search.search_epochs=1", "search.least_epochs=1", "trainer.max_epochs=1", "search.rates=[2]")
    done = dnis(tmp_path, "-m", *TINY, *quick, *offline, WANDB_SILENT="true", HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    folders = sorted(path.parent for path in tmp_path.glob("outputs/*/*/result.json"))
    told = [records(folder) for folder in folders]
    runs = [next(record.run for record in found if record.HasField("run")) for found in told]
    assert len({run.run_id for run in runs}) == 2
    (group,) = {run.run_group for run in runs}
    assert group
    for folder, found in zip(folders, told, strict=True):
        seen = history(found)
        assert {"select/mse", "train/loss", "gates/heatmap", "dims/cr-2", "figures/gates"} <= set(seen)
        updates = [item for record in found for item in record.summary.update]
        summary = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in updates}
        result = json.loads((folder / "result.json").read_text())
        assert summary["unpruned/test/mse"] == pytest.approx(result["unpruned"]["metrics"]["test/mse"])
        assert summary["cr-2/bytes"] == result["pruned"][0]["bytes"]
