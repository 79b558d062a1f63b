"""The measurements run, on next to nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.command import environment

CHECKOUT = Path(__file__).parents[1]


def measure(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", *arguments]
    paths = environment(PYTHONPATH=str(CHECKOUT))
    done = subprocess.run(command, cwd=folder, env=paths, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_mode_is_timed_against_the_reference(tmp_path: Path) -> None:
    printed = measure(tmp_path, "benchmarks.speed", "rounds=1", "rows=6000")
    lines = json.loads((tmp_path / "outputs" / "bench" / "bench.json").read_text())
    modes = {"reference", "plain", "search, first order", "search, second order", "loader alone"}
    assert {line["mode"] for line in lines} == modes
    assert all(line["ratio_to_reference"] == 1 for line in lines if line["mode"] == "reference")
    assert all(line["seconds_per_step"] > 0 for line in lines)
    assert printed.count("\n| ") == len(lines)


def test_tables_of_results_can_be_printed_of_nothing(tmp_path: Path) -> None:
    printed = measure(tmp_path, "benchmarks.results", "--table")
    assert printed.count("### ") == 4
