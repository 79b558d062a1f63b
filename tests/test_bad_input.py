"""Damaged files, full disks, machines without a GPU, signals: by the command line, with what it leaves behind."""

from __future__ import annotations

import re
import signal
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch

from tests.command import TINY, TINY_DNIS, command, dnis, environment, result_of
from tests.data.conftest import (
    LINES,
    tiny_disk,  # noqa: F401
)

QUICK = ("trainer.threads=1", "trainer.max_epochs=1", "search=none", "data.batch_size=16", "search.base_dim=2")


def left_behind(folder: Path) -> list[str]:
    """All files in the cache and in outputs."""
    places = (folder / "cache", folder / "outputs")
    return [str(path.relative_to(folder)) for place in places for path in place.rglob("*") if path.is_file()]


def lines(*changes: tuple[int, str]) -> bytes:
    """The rows of a small `ratings.dat`, some of them replaced."""
    rows = list(LINES["1m"])
    for number, text in changes:
        rows[number] = text
    return ("\n".join(rows) + "\n").encode()


FILES = {
    "columns": (lines((4, "1::2::3")), r"ratings\.dat:5: 3 columns, movielens-1m has 4 "),
    "rating": (lines((7, "1::2::good::5")), r"ratings\.dat:8: rating is 'good', expected a number"),
    "infinite": (lines((7, "1::2::inf::5")), r"ratings\.dat:8: rating is 'inf', expected a number"),
    "empty": (b"", r"ratings\.dat:1: the file is empty"),
    "one row": (lines()[:10], r"of the 1 rows of movielens-1m none is left for"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_named_and_the_next_run_works(name: str, tmp_path: Path) -> None:
    content, says = FILES[name]
    path = tmp_path / "raw" / "ml-1m" / "ratings.dat"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    arguments = ("data=movielens-1m", f"data.root={tmp_path}/raw", *QUICK)
    done = dnis(tmp_path, *arguments)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(says, done.stderr), done.stderr
    assert not list((tmp_path / "outputs").glob("*/*"))
    assert name == "one row" or left_behind(tmp_path) == []
    if name in ("columns", "one row"):  # where nothing was written, and where the cache was
        path.write_bytes(lines())
        result_of(dnis(tmp_path, *arguments))


def test_a_truncated_zip_is_named_and_the_next_run_works(tmp_path: Path) -> None:
    path = tmp_path / "ml-1m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ml-1m/ratings.dat", lines())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    arguments = ("data=movielens-1m", f"data.root={tmp_path}", *QUICK)
    done = dnis(tmp_path, *arguments)
    assert done.returncode == 1
    assert re.match(r".*ml-1m\.zip: not a whole zip archive \(.*\); delete it", done.stderr)
    assert left_behind(tmp_path) == []
    path.write_bytes(whole)
    result_of(dnis(tmp_path, *arguments))


def test_a_full_disk_while_encoding(tiny_disk: Path, tmp_path: Path) -> None:  # noqa: F811
    done = dnis(tiny_disk, *TINY, "search=none", "data.rows=60000")
    assert done.returncode == 1
    assert re.search(
        r"the disk is full: synthetic needs (about|more than) .* choose another place with data\.cache=", done.stderr
    )
    assert [path for path in tiny_disk.rglob("*") if path.is_file()] == []
    result_of(dnis(tmp_path, *TINY, "search=none"))


def test_a_full_disk_while_running(tiny_disk: Path, tmp_path: Path) -> None:  # noqa: F811
    arguments = (*TINY_DNIS, "data.features_per_field=600", "search.base_dim=64")
    full = command(tiny_disk, *arguments)
    full[full.index(f"data.cache={tiny_disk}/cache")] = f"data.cache={tmp_path}/cache"
    done = subprocess.run(full, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(r"the disk is full; make room there, and the same command with resume=auto goes on", done.stderr)
    assert not list(tiny_disk.rglob("result.json"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    done = dnis(tmp_path, *TINY, "trainer=gpu")
    assert done.returncode == 1
    assert "trainer.accelerator=gpu: 1 asked for, torch sees 0 CUDA GPUs; take trainer=cpu" in done.stderr
    assert left_behind(tmp_path) == []


def test_wandb_without_a_key(tmp_path: Path) -> None:
    quiet = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = dnis(tmp_path, *TINY, "logger=wandb", **quiet)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(r"logger=wandb: .*; logger\.mode=offline writes to the run's folder alone", done.stderr)
    assert not list((tmp_path / "outputs").glob("*/*"))


@pytest.mark.parametrize(("number", "says"), [(signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupted")])
def test_a_signal_ends_a_run_that_can_go_on(number: signal.Signals, says: str, tmp_path: Path) -> None:
    arguments = (*TINY_DNIS, "trainer.max_epochs=500", "trainer.patience=500")
    process = subprocess.Popen(
        command(tmp_path, *arguments), cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "epoch 3:" in line:
            process.send_signal(number)
            break
    rest = process.stderr.read()
    assert process.wait(60) == 128 + number
    assert f"{says}; the same command with resume=auto goes on" in rest
    assert "Traceback" not in rest
    assert len(list((tmp_path / "outputs").glob("*/*/config.yaml"))) == 1
