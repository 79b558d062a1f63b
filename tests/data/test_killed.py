"""Processes killed while they prepare data: the next run clears up and ends where an undisturbed one does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dnis_lightning.data import dictionary, prepare, rows
from dnis_lightning.data.prepare import Prepared

from .conftest import mixed_table

PLACES: dict[str, tuple[Any, str, int]] = {
    "reading": (dictionary.Spool, "append", 9),
    "numbering": (dictionary._Texts, "part", 9),
    "codes": (dictionary.Spool, "_write_codes", 2),
    "split": (prepare, "save_array", 1),
    "vocabulary": (prepare.TrainVocabulary, "save", 1),
    "dealing": (rows, "_append", 20),
    "shuffling": (rows, "_raw", 24),
}
"""Where to stop: a function, and in which of its calls."""


def prepared(cache: Path, where: str = "") -> Prepared:
    """The table, in small pieces if it is to be stopped in the middle of one."""
    with pytest.MonkeyPatch.context() as patch:
        if where in ("numbering", "codes"):
            patch.setattr(dictionary, "TEXTS_AT_ONCE", 9)
        if where in ("dealing", "shuffling"):
            patch.setattr(rows, "_BUCKET_BYTES", 1 << 10)
            patch.setattr(rows, "_ROWS_AT_ONCE", 13)
        return prepare.prepare(mixed_table(300), cache=cache)


def stop(where: str, tell: int) -> None:
    """Let the process wait for ever after so many calls of a function, and say that it does."""
    owner, name, calls = PLACES[where]
    function, seen = getattr(owner, name), []

    def stopping(*arguments: Any) -> Any:
        done = function(*arguments)
        seen.append(1)
        if len(seen) == calls:
            os.write(tell, b"!")
        if len(seen) >= calls:
            time.sleep(60)
        return done

    setattr(owner, name, stopping)


def kill_in_each(folder: Path) -> None:
    """For each place, start a process that prepares the table in `folder`/place, and kill it there."""
    for where in PLACES:
        told, tell = os.pipe()
        child = os.fork()  # in a process of its own, which has no threads yet
        if not child:
            stop(where, tell)
            prepared(folder / where, where)
            os._exit(0)
        os.close(tell)
        os.read(told, 1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the killed processes left, by place."""
    folder = tmp_path_factory.mktemp("killed")
    code = f"import sys, pathlib, {__name__} as here; here.kill_in_each(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, folder], check=True, cwd=Path(__file__).resolve().parents[2])
    return folder


@pytest.mark.parametrize("where", PLACES)
def test_the_next_run_clears_up(where: str, killed: Path, tmp_path: Path, listing: Callable[[Path], list[str]]) -> None:
    cache = killed / where
    assert [path for path in cache.rglob(".*") if path.is_dir()], "it was killed too early or too late"
    prepared(cache)
    prepared(tmp_path)
    assert listing(cache) == listing(tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert (cache / path.relative_to(tmp_path)).read_bytes() == path.read_bytes()
