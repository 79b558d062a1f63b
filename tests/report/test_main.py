"""The command as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.command import loaded
from tests.report.runs import make_run, part, rating


def report(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dnis_lightning.report", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd)
    assert "Traceback" not in done.stderr
    return done


def test_a_report_of_several_runs(tmp_path: Path) -> None:
    for seed in range(3):
        cut = part(rating(0.6 + seed / 100), 500, budget="cr:2", coo_npz_bytes=777)
        make_run(tmp_path / "runs", rating(0.5 + seed / 50), seed=seed, pruned=[cut])
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "result.json").write_text("{")
    to = tmp_path / "deep" / "report"
    done = report(tmp_path / "runs", "--to", to)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in to.iterdir()) == [
        *("frontier_movielens-1m_mf.png", "report.html", "runs.csv"),
        *("table_1_movielens-1m_rating.csv", "table_1_movielens-1m_rating.md"),
    ]
    assert "| DNIS (cr:2)" in done.stdout
    assert str(to / "report.html") in done.stdout
    assert "broken/result.json: not JSON" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    tidy = pd.read_csv(to / "table_1_movielens-1m_rating.csv")
    assert tidy["cut"].tolist() == ["unpruned", "cr:2"]
    assert tidy["mse_mean"].tolist() == pytest.approx([0.52, 0.61])
    assert tidy["mse_std"].tolist() == pytest.approx([0.02, 0.01])
    assert tidy[["n", "kept", "bytes"]].values.tolist() == [[3, 1000, 4000], [3, 500, 2000]]
    runs = pd.read_csv(to / "runs.csv")
    assert len(runs) == 6
    assert {"test/mse", "path", "seed", "config", "model.l2", "used"} <= set(runs.columns)
    assert not runs.columns.duplicated().any()


def test_what_cannot_be_printed_is_a_sentence_and_1(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", rating(0.5))
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "dnis_lightning.report", str(run), "--to", str(tmp_path / "to")]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("standard output: cannot be written (No space left on device)")


def test_bad_input_is_a_sentence_and_1(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", rating(0.5))
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for arguments, sentence in {
        (): "required: PATH",
        (tmp_path / "nowhere",): "nowhere: there is no such file or folder",
        (tmp_path / "empty",): "no result.json of a finished run",
        (run, "--to", tmp_path / "file"): "this is a file; --to names the folder",
        (run, "--to", tmp_path / "file" / "x"): "cannot be written to (Not a directory)",
        (run, "--against", "nis"): "no run has search=nis; there is dnis",
        (run, "--with"): "unrecognized arguments: --with",
    }.items():
        done = report(*arguments, cwd=tmp_path)
        assert done.returncode == 1
        assert sentence in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert done.stdout == ""


def test_nothing_heavy_is_loaded_to_tell_a_mistake(tmp_path: Path) -> None:
    heavy = ("torch", "lightning", "matplotlib", "scipy", "hydra")
    said = loaded("dnis_lightning.report.__main__", "nowhere", names=heavy, code=1, folder=tmp_path)
    assert said[1:] == ["[]"], said


def test_no_torch_is_loaded_at_all(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", rating(0.5))
    heavy = ("torch", "lightning", "hydra")
    said = loaded("dnis_lightning.report.__main__", "runs", "--to", "to", names=heavy, code=0, folder=tmp_path)
    assert said[-1] == "[]", said
