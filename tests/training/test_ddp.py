"""Two processes on the CPU end where one process with the same global batch ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.command import TINY, TINY_DNIS, command, dnis, environment, result_of

TWO = ("trainer=ddp", "trainer.devices=2")


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["recommender"]


@pytest.mark.parametrize(
    ("xi", "optimizer"),
    [(0.0, "adam"), (0.05, "adam"), (0.05, "lazy_adam")],
    ids=["first-order", "second-order", "by-row"],
)
def test_two_ranks_end_where_one_ends(xi: float, optimizer: str, tmp_path: Path) -> None:
    arguments = (*TINY_DNIS, f"search.xi={xi}", "data.batch_size=500", "trainer.precision=64-true")
    arguments += (f"optimizer={optimizer}",)
    one, alone = result_of(dnis(tmp_path, *arguments))
    two, together = result_of(dnis(tmp_path, *arguments, *TWO))
    assert one != two
    for name, tensor in checkpoint(one).items():
        assert torch.allclose(checkpoint(two)[name], tensor, rtol=1e-5, atol=1e-8), name
    assert together["unpruned"]["metrics"] == pytest.approx(alone["unpruned"]["metrics"], rel=1e-5)
    for cut, single in zip(together["pruned"], alone["pruned"], strict=True):
        assert cut["kept"] == single["kept"]
        assert cut["metrics"] == pytest.approx(single["metrics"], rel=1e-5)
    for key in ("data_share", "signal", "gates", "drift"):
        single = [block[key] for block in alone["diagnostics"]["blocks"]]
        assert [block[key] for block in together["diagnostics"]["blocks"]] == pytest.approx(single, rel=1e-5), key
    assert len(list((tmp_path / "outputs").glob("*/*/result.json"))) == 2, "one folder a run, whatever the ranks"


def test_what_is_told_before_a_run_is_told_by_one_rank(tmp_path: Path) -> None:
    done = dnis(tmp_path, *TINY, "search=none", "search.rates=[]", "data.batch_size=2048", *TWO)
    folder, _ = result_of(done)
    assert done.stderr.count("too few for trainer.max_epochs") == 1
    assert (folder / "run.log").read_text().count("too few for trainer.max_epochs") == 1


RIVALS = {
    "mde": ("search=mde", "search.temperatures=[0.5]", "model=mlp", "model.l2_net=0.01"),
    "pep": ("search=pep", "prune.learned_epochs=3", "prune.learned_lr=2", "prune.learned_decay=1e-3"),
    "gradual": ("search=magnitude", "prune.schedule=gradual", "prune.gradual_epochs=2"),
}


@pytest.mark.parametrize("rival", list(RIVALS))
def test_rivals_on_two_ranks_end_where_one_ends(rival: str, tmp_path: Path) -> None:
    idle = ("search.search", "search.least", "search.rates", *(("prune.finetune",) if rival == "pep" else ()))
    tiny = [one for one in TINY_DNIS if not one.startswith(idle)]
    arguments = (*tiny, *RIVALS[rival], "search.rates=[4]", "data.batch_size=500", "trainer.precision=64-true")
    _, alone = result_of(dnis(tmp_path, *arguments))
    _, together = result_of(dnis(tmp_path, *arguments, *TWO))
    assert together["unpruned"]["metrics"] == pytest.approx(alone["unpruned"]["metrics"], rel=1e-5)
    (cut,), (single,) = together["pruned"], alone["pruned"]
    assert cut["kept"] == single["kept"]
    assert cut["metrics"] == pytest.approx(single["metrics"], rel=1e-4)


SAVING_GATES = """
import sys
import torch
from dnis_lightning.command import execute
from dnis_lightning.training.search_module import SearchModule

SearchModule.on_train_end = lambda self: torch.save(self.gates.detach().clone(), f"gates-{self.global_rank}.pt")
sys.exit(execute())
"""


def test_both_ranks_end_with_the_same_gates(tmp_path: Path) -> None:
    (tmp_path / "saving.py").write_text(SAVING_GATES)
    arguments = command(tmp_path, *TINY_DNIS, *TWO, "search.xi=0.05")[3:]
    script = [sys.executable, str(tmp_path / "saving.py"), *arguments]
    done = subprocess.run(script, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / f"gates-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert torch.equal(one, two)
    assert (one < 1).any()


def test_a_sweep_over_several_processes_is_refused(tmp_path: Path) -> None:
    done = dnis(tmp_path, "-m", *TINY_DNIS, *TWO, "seed=0,1")
    assert done.returncode == 1
    assert "trainer.devices=2 under -m: each process would run the whole sweep again" in done.stderr
    assert not list((tmp_path / "outputs").glob("*/*/config.yaml"))
