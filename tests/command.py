"""Runs the command line in a process of its own, on tiny planted data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.warm import run_module

TINY = (
    "data=synthetic",
    "data.rows=6000",
    "data.features_per_field=60",
    "data.batch_size=512",
    "data.dims=[3,1]",
    "search.base_dim=6",
    "search.blocks=4",
    "trainer.threads=1",
    "trainer.max_epochs=3",
)
TINY_DNIS = (*TINY, "search.search_epochs=3", "search.least_epochs=1", "prune.finetune_epochs=2", "search.rates=[2,4]")


def command(folder: Path, *arguments: str) -> list[str]:
    """The command line with its data cache and outputs inside `folder`."""
    named = any(one.startswith("resume=") and one != "resume=auto" for one in arguments)
    places = (f"data.cache={folder}/cache", *(() if named else (f"output_dir={folder}/outputs",)))
    return [sys.executable, "-m", "dnis_lightning", *arguments, *places]


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what would change a run."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "DNIS", "HYDRA"))}
    return kept | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | more


def dnis(folder: Path, *arguments: str, timeout: int = 240, **more: str) -> subprocess.CompletedProcess[str]:
    """Run to the end; the finished process with its output as text. more: of its environment."""
    full = command(folder, *arguments)
    if more:  # which may be read while libraries load
        return subprocess.run(
            full, cwd=folder, env=environment(**more), capture_output=True, text=True, timeout=timeout
        )
    return run_module("dnis_lightning", full[3:], cwd=folder, env=environment(), timeout=timeout)


def loaded(main: str, *arguments: str, names: tuple[str, ...], code: int, folder: Path) -> list[str]:
    """What a command, `main` of a module, printed, line by line, and at last which of some packages it has loaded."""
    script = (
        f"import sys; from {main} import main; assert main({list(arguments)!r}) == {code}; "
        f"print([name for name in {names!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=folder)
    assert done.returncode == 0, done.stderr
    return [*done.stderr.splitlines(), *done.stdout.splitlines()]


def result_of(finished: subprocess.CompletedProcess[str]) -> tuple[Path, dict[str, Any]]:
    """The run's folder, which a run prints last, and its result.json."""
    assert finished.returncode == 0, finished.stderr
    folder = Path(finished.stdout.strip().splitlines()[-1])
    return folder, json.loads((folder / "result.json").read_text())


def figures_of(result: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on how a run came to its end: metrics, sizes, gates, and what moved them."""
    cuts = [{name: cut[name] for name in cut if name != "seconds"} for cut in result["pruned"]]
    told = {"gates": result["gates_per_block"], "diagnostics": result["diagnostics"]}
    biases = result["biases"] and result["biases"]["metrics"]
    return {"unpruned": result["unpruned"], "pruned": cuts, "biases": biases, **told}
