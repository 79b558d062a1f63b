"""Many jobs by one command: launchers, faults, kills, studies, what is passed over, their runs on W&B."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dnis_lightning.checks import check_machine, check_method
from dnis_lightning.config import check_config
from dnis_lightning.errors import ConfigError
from dnis_lightning.report.__main__ import main as report
from dnis_lightning.sweep.gpus import SWEEP_GPUS, hand_out_gpus, own_gpu
from tests.command import TINY, command, dnis, environment, figures_of, result_of
from tests.test_config import composed
from tests.test_resume import curves_of
from tests.training.test_wandb_panels import history, records

NONE = (*TINY, "search=none", "trainer.max_epochs=1")


LAUNCHERS = {  # the presets that need no cluster, and the plugin of each
    "local": "hydra_joblib_launcher",
    "slurm_local": "hydra_submitit_launcher",
    "ray_local": "hydra_ray_launcher",
}
ODD = """
import os, signal, sys, time
from pathlib import Path
import torch

class Odd(torch.nn.Module):
    def __init__(self, how: str = "fine", met: str = ""):
        super().__init__()
        self.how, self.met = how, met

    def forward(self, rows, batch):
        if self.met:  # wait for the other job
            Path(self.met, str(os.getpid())).touch()
            limit = time.monotonic() + 60
            while len(list(Path(self.met).iterdir())) < 2:
                assert time.monotonic() < limit, "the jobs run one after the other"
                time.sleep(0.01)
        if self.how == "divide":
            1 / 0
        if self.how == "exit":
            sys.exit(3)
        if self.how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return rows.prod(1).sum(-1)
"""


def odd_model(folder: Path) -> tuple[str, ...]:
    """A user's own model that can go wrong in many ways."""
    (folder / "odd.py").write_text(ODD)
    (folder / "options" / "model").mkdir(parents=True)
    node = "interaction:\n  _target_: odd.Odd\n  how: fine\n  met: ''\n"
    (folder / "options" / "model" / "odd.yaml").write_text(f"defaults: [_common, _self_]\nname: odd\n{node}")
    return ("--config-dir", "options", "-m", *NONE, "model=odd")


def results(folder: Path) -> list[Path]:
    """The results of all runs there."""
    return sorted(folder.glob("outputs/*/*/result.json"))


@pytest.mark.parametrize("launcher", ["basic", *LAUNCHERS])
def test_all_jobs_run_and_all_faults_are_told(launcher: str, tmp_path: Path) -> None:
    if launcher in LAUNCHERS:
        pytest.importorskip(f"hydra_plugins.{LAUNCHERS[launcher]}")
    done = dnis(tmp_path, "-m", *NONE, f"hydra/launcher={launcher}", "sweep.jobs=2", "search.blocks=500,600,4")
    assert done.returncode == 1
    assert re.findall(r"^job (\d) .*: (\d+) blocks for 122 features", done.stderr, re.MULTILINE) == [
        ("0", "500"),
        ("1", "600"),
    ]
    assert "Traceback" not in done.stderr
    assert len(results(tmp_path)) == len(list(tmp_path.glob("outputs/synthetic*/*"))) == 1
    assert not (tmp_path / "multirun.yaml").exists()
    assert {path.name for path in tmp_path.glob("outputs/.sweeps/*/*")} <= {"multirun.yaml", ".submitit"}


def test_jobs_run_side_by_side_and_one_that_dies_dies_alone(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    (tmp_path / "met").mkdir()
    sweep = (*odd_model(tmp_path), f"model.interaction.met={tmp_path}/met", "hydra/launcher=local", "sweep.jobs=2")
    done = dnis(tmp_path, *sweep, "model.interaction.how=die,fine", "trainer.threads=3")
    assert done.returncode == 1
    (died,) = [line for line in done.stderr.splitlines() if line.startswith("job ")]
    assert re.match(r"job 0 \(.*how=die.*\): its process was killed by SIGKILL; was there enough memory\?", died)
    assert "Traceback" not in done.stderr
    (result,) = results(tmp_path)
    assert json.loads(result.read_text())["environment"]["threads"] == 3


def test_unexpected_errors_are_told_at_the_end_of_a_sweep_and_shown_in_a_single_run(tmp_path: Path) -> None:
    odd = odd_model(tmp_path)
    done = dnis(tmp_path, *odd, "model.interaction.how=divide,exit,fine")
    assert done.returncode == 1
    pattern = r"^job 0 .*: ZeroDivisionError: division by zero; its traceback is in (.*)\njob 1 .*: SystemExit: 3; "
    told = re.search(pattern, done.stderr, re.MULTILINE)
    assert told, done.stderr
    assert "1 / 0" in Path(told[1]).read_text()
    assert (Path(told[1]).parent / "run.log").exists()
    assert "Traceback" not in done.stderr
    assert len(results(tmp_path)) == 1
    done = dnis(tmp_path, *(one for one in odd if one != "-m"), "model.interaction.how=divide")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError: division by zero" in done.stderr


def test_a_killed_sweep_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    slow = ("trainer.max_epochs=1,200", "trainer.patience=200", "trainer.checkpoint_every_n_steps=20")
    sweep = ("-m", *NONE, *slow, "hydra/launcher=local", "sweep.jobs=2")
    process = subprocess.Popen(command(tmp_path, *sweep), cwd=tmp_path, env=environment(), start_new_session=True)
    limit = time.monotonic() + 120
    while not results(tmp_path) or len(list(tmp_path.glob("outputs/*/*/checkpoints/last.ckpt"))) < 2:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < limit
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert len(results(tmp_path)) == 1
    done = dnis(tmp_path, *sweep, "resume=auto")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("already finished") == 1
    assert len(results(tmp_path)) == len(list(tmp_path.glob("outputs/*/*/config.yaml"))) == 2
    logs = [(path.parent / "run.log").read_text() for path in results(tmp_path)]
    assert [log.count("uniform/fit: epoch 1:") for log in logs] == [1, 1], "no job has begun anew"


@pytest.mark.parametrize("launcher", ["basic", "local"])
@pytest.mark.parametrize("swept", [("trainer=cpu,ddp", "seed=0,1"), ("trainer=ddp", "trainer.devices=1,2")], ids=str)
def test_several_processes_a_job_are_refused_before_any_begins(
    launcher: str, swept: tuple[str, ...], tmp_path: Path
) -> None:
    if launcher == "local":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    done = dnis(tmp_path, "-m", *NONE, f"hydra/launcher={launcher}", *swept)
    assert done.returncode == 1
    assert done.stderr.count("trainer.devices=2 under -m: each process would run the whole sweep again") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "outputs").exists()
    assert not (tmp_path / "cache").exists()


def test_a_study_minimises_a_cut_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    quick = ("search.search_epochs=1", "search.least_epochs=1", "trainer.max_epochs=1", "search.rates=[2]")
    study = ("-m", *TINY, *quick, "prune.finetune_epochs=1", "hydra/sweeper=tune", "sweep.minimise=cr:2")
    done = dnis(tmp_path, *study, "sweep.trials=2")
    assert done.returncode == 0, done.stderr
    done = dnis(tmp_path, *study, "sweep.trials=3", "resume=auto")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("already finished") == 2
    told = [json.loads(path.read_text()) for path in results(tmp_path)]
    best = min(told, key=lambda one: one["pruned"][0]["metrics"]["select/mse"])
    says = re.search(
        r"best of the study: ([\d.e-]+) with optimizer\.lr=(\S+) model\.l2=(\S+) search\.penalty=", done.stderr
    )
    assert says, done.stderr
    assert float(says[1]) == best["pruned"][0]["metrics"]["select/mse"]
    assert float(says[3]) == best["l2"]


def test_a_failed_trial_ends_no_study(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    fixed = ("optimizer.lr=1e-3", "search.penalty=null", "model.l2=choice(0,0.1)")
    study = (*odd_model(tmp_path), *fixed, "model.interaction.how=choice(divide,fine)", "hydra/sweeper=tune")
    done = dnis(tmp_path, *study, "sweep.trials=6")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "best of the study: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_search_that_is_taken_over_brings_the_table_before_it(tmp_path: Path) -> None:
    tiny = (*TINY, "search.search_epochs=3", "search.least_epochs=1", "prune.finetune_epochs=2", "search.rates=[20]")
    moved = (*tiny, "search.gates_lr=2", "search.start_counts=false")
    folder, whole = result_of(dnis(tmp_path, *moved))
    assert "fine_tune-warm_start/cr:20" in (folder / "metrics.csv").read_text()
    folder.rename(tmp_path / "away")
    assert dnis(tmp_path, *moved, "search.trial=0").returncode == 0
    done = dnis(tmp_path, *moved, "resume=auto")
    again, taken = result_of(done)
    assert done.stderr.count(": taken from ") == 1
    assert figures_of(taken) == figures_of(whole)
    assert curves_of(again) == curves_of(tmp_path / "away")


def test_a_gpu_that_is_not_used_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    told = []
    for count, trainer in ((0, "cpu"), (1, "cpu"), (1, "gpu")):
        monkeypatch.setattr("torch.cuda.device_count", lambda count=count: count)
        with caplog.at_level("INFO", "dnis_lightning"):
            caplog.clear()
            check_machine(check_config(composed(f"trainer={trainer}")))
        told.append(caplog.messages)
    assert told == [[], ["torch sees a CUDA GPU here; trainer=gpu trains on it"], []]


def test_a_cut_that_is_not_made_cannot_be_minimised() -> None:
    settings = check_config(composed("search.rates=[2]", "prune.thresholds=[0.1]", "sweep.minimise=cr:3"))
    with pytest.raises(ConfigError, match=r"sweep.minimise=cr:3: there is no such cut; .* unpruned, cr:2, eps:0.1"):
        check_method(settings)


@pytest.mark.parametrize("preset", ["launcher=local", "launcher=slurm", "launcher=ray_local", "sweeper=tune"])
def test_what_is_not_installed_is_named(preset: str, tmp_path: Path) -> None:
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "__init__.py").touch()  # it hides all plugins, which are in namespace packages
    done = dnis(tmp_path, "-m", *NONE, f"hydra/{preset}")
    assert done.returncode == 1
    assert re.match(r"this hydra/\w+ needs what is not installed: pip install '\.\[\w+\]'\n$", done.stderr)


def test_gpus_are_those_of_the_machine_or_those_it_may_see(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setenv(SWEEP_GPUS, "")
    assert own_gpu(tmp_path, 0, {}) == {}, "none were handed out"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    hand_out_gpus()
    assert os.environ[SWEEP_GPUS] == "0,1,2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-5f,7")
    hand_out_gpus()
    assert os.environ[SWEEP_GPUS] == "4,GPU-5f,7"


def test_each_process_holds_a_gpu_of_its_own_as_long_as_it_lives(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(SWEEP_GPUS, "4,7")
    code = "import sys; from dnis_lightning.sweep.gpus import own_gpu; from pathlib import Path; held = {}\n"
    code += "for job in map(int, sys.stdin): print(own_gpu(Path('.'), job, held)['CUDA_VISIBLE_DEVICES'], flush=True)"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": tmp_path}
    workers = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(3)]

    def gpu(worker: int, job: int) -> str:
        workers[worker].stdin.write(f"{job}\n")
        workers[worker].stdin.flush()
        return workers[worker].stdout.readline().strip()

    assert [gpu(0, 0), gpu(1, 1), gpu(0, 2), gpu(0, 3), gpu(1, 4)] == ["4", "7", "4", "4", "7"]
    assert gpu(2, 5) == "4", "a third one shares"
    workers[1].kill()
    workers[1].wait()
    workers[1] = subprocess.Popen([sys.executable, "-c", code], **pipes)
    assert gpu(1, 6) == "7", "what a dead one held is free"
    for worker in workers:
        worker.stdin.close()
        worker.wait(10)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpus_that_are_not_there(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    done = dnis(tmp_path, "-m", *NONE, "trainer=gpu", "hydra/launcher=gpus", "seed=0,1")
    assert done.returncode == 1
    assert done.stderr.count("hydra/launcher=gpus: torch sees no CUDA GPU; take hydra/launcher=local") == 1
    assert not (tmp_path / "outputs").exists()


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


def test_trials_spread_over_jobs_are_not_trained_again(tmp_path: Path) -> None:
    grid = (*TINY, "search=grid", "search.first=2", "search.stride=4", "search.rates=[2]", "prune.finetune_epochs=1")
    first, whole = result_of(dnis(tmp_path, *grid))
    assert dnis(tmp_path, "-m", *grid, "search.trial=0,1").returncode == 0
    (tmp_path / "outputs" / "synthetic-mf-grid").rename(tmp_path / "away")
    for job in (tmp_path / "away").glob("*-t[01]"):  # all but the whole run
        shutil.copytree(job, tmp_path / "outputs" / "synthetic-mf-grid" / job.name)
    done = dnis(tmp_path, *grid, "resume=auto")
    folder, spread = result_of(done)
    assert figures_of(spread) == figures_of(whole)
    assert [trial["name"] for trial in spread["trials"]] == ["dim=2", "dim=6"]
    assert done.stderr.count(": taken from ") == 2
    assert "/fit: epoch" not in done.stderr, "nothing was trained but the cut"
    assert spread["seconds"]["total"] > sum(trial["seconds"] for trial in spread["trials"]), "the time of all is summed"
    assert curves_of(folder) == curves_of(tmp_path / "away" / first.name), "cuts of the jobs left no trace"

    for job in (tmp_path / "outputs" / "synthetic-mf-grid").glob("*-t0"):
        (job / "checkpoints" / "last.ckpt").unlink()
    shutil.rmtree(folder)
    again = dnis(tmp_path, *grid, "resume=auto")
    assert figures_of(result_of(again)[1]) == figures_of(whole)
    assert again.stderr.count(": taken from ") == 1, "what is no longer there is trained"


def test_contenders_of_a_frontier_end_in_one_picture(tmp_path: Path) -> None:
    tiny = [word for word in TINY if not word.startswith("search.base_dim")]
    given = ["contender=uniform_2,turned", "seed=0", "data.default_budget=[20%]", "prune.finetune_epochs=1"]
    done = dnis(tmp_path, "experiment=frontier", *tiny, *given)
    assert done.returncode == 0, done.stderr
    assert report([str(tmp_path / "outputs"), "--to", str(tmp_path / "report"), "--against", "none"]) == 0
    (table,) = (tmp_path / "report").glob("table_*.csv")
    lines = {line["cut"] + "|" + line["settings"]: line for line in csv.DictReader(table.open())}
    plain, whole, cut = lines["unpruned|K = 2"], lines["unpruned|K = 64"], lines["20%|K = 64"]
    assert lines.keys() == {"unpruned|K = 2", "cr:1|K = 2", "unpruned|K = 64", "20%|K = 64"}
    assert float(plain["bytes"]) < float(cut["bytes"]) < float(whole["bytes"]) / 4
    assert list((tmp_path / "report").glob("frontier_*.png"))
