"""A run's folder: its name, how an unfinished one is found again, and how files get into it."""

from __future__ import annotations

import csv
import fcntl
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnis_lightning.errors import RunError
from dnis_lightning.paths import remove_leftovers, whole_file, write_json

log = logging.getLogger(__name__)

SHARED_FOLDER = "DNIS_RUN_FOLDER"
"""Environment variable by which rank zero tells the other ranks of a run where it writes."""


@dataclass(frozen=True)
class RunFolder:
    """outputs/<data>-<model>-<search>/<time>-<job>-s<seed>[-t<trial>]."""

    path: Path

    @property
    def checkpoint(self) -> Path:
        """The state of the whole run, from which it can go on."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def best(self) -> Path:
        """The weights of the unpruned model."""
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def figures(self) -> Path:
        """Where the pictures are."""
        return self.path / "figures"

    def scheme(self, budget: str) -> Path:
        """The file of the table cut to a budget."""
        return self.path / "schemes" / f"{_as_file(budget)}.safetensors"

    def embedding(self, budget: str) -> Path:
        """The folder of the packed table cut to a budget."""
        return self.path / "embedding" / _as_file(budget)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Hold this folder, so that no other run goes on in it meanwhile; rank zero only.

        What killed processes left half-written goes.

        Raises RunError when another process holds it.
        """
        if not is_rank_zero():
            yield
            return
        handle = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as fault:
                raise RunError(f"{self.path}: another process is at work in this run; wait for it") from fault
            except OSError:  # some network file systems have no locks
                pass
            remove_leftovers(self.path)
            yield
        finally:
            os.close(handle)

    def fingerprint(self) -> str:
        """What `config.fingerprint` gave for this run; empty where there is none."""
        path = self.path / "fingerprint"
        try:
            return path.read_text(encoding="utf-8").strip() if path.is_file() else ""
        except (OSError, ValueError):
            log.warning("%s: cannot be read, so resume=auto passes this run over", path)
            return ""

    def finished(self) -> bool:
        """Whether the result, which is written last, is there and whole; what else stands there is made anew."""
        path = self.path / "result.json"
        try:
            return path.is_file() and "schema" in json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError, RecursionError):
            log.warning("%s: cannot be read, so the run counts as unfinished", path)
            return False

    def write_text(self, name: str, text: str) -> None:
        """Write a file of this folder, whole or not at all."""
        with whole_file(self.path / name) as part:
            part.write_text(text, encoding="utf-8")

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as JSON, whole or not at all; see `paths.write_json`."""
        write_json(self.path / name, value)

    def write_rows(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows as CSV; the columns are all keys, in order of appearance."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        with whole_file(self.path / name) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)


def _as_file(budget: str) -> str:
    return budget.replace(":", "-").replace("/", "-")


def new_folder(outputs: Path, kind: str, job: int, suffix: str) -> RunFolder:
    """Make a folder that no other run has: the job's number is raised until its name is free."""
    now = time.strftime("%Y%m%d-%H%M%S")
    while True:
        path = outputs / kind / f"{now}-{job}-{suffix}"
        try:
            path.mkdir(parents=True)
            return RunFolder(path)
        except FileExistsError as fault:
            if not path.exists():  # something above it is no folder
                raise RunError(f"{path}: the run's folder cannot be made; choose another output_dir=") from fault
            job += 1
        except OSError as fault:
            raise RunError(
                f"{path}: the run's folder cannot be made ({fault.strerror}); choose another output_dir="
            ) from fault


def find_folder(outputs: Path, kind: str, identity: str) -> RunFolder | None:
    """The newest run with this configuration's fingerprint, an unfinished one before a finished one."""
    found = [
        folder for folder in map(RunFolder, sorted((outputs / kind).glob("*"))) if folder.fingerprint() == identity
    ]
    return max(found, key=lambda folder: (not folder.finished(), folder.path.name), default=None)


def is_rank_zero() -> bool:
    """Whether this process writes: false in the processes that a multi-process trainer starts."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


class Said(logging.Handler):
    """Keeps what is logged, for the log of a run that has no folder yet."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.records.append(record)


@contextmanager
def logging_early() -> Iterator[Said]:
    """Sends this package's log to standard error, before there is a folder; rank zero only. Yields what keeps it."""
    said = Said()
    with _logging_by([said, _terminal()] if is_rank_zero() else []):
        yield said


@contextmanager
def logging_to(folder: RunFolder, said: Said | None = None) -> Iterator[None]:
    """Sends this package's log to run.log and standard error; rank zero only. said: what was logged before."""
    handlers: list[logging.Handler] = []
    if is_rank_zero():
        handlers = [_RunLog(folder.path / "run.log", encoding="utf-8"), _terminal()]
        handlers[0].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        for record in said.records if said else ():
            handlers[0].handle(record)
    with _logging_by(handlers):
        yield


class _RunLog(logging.FileHandler):
    """A file that a full disk cuts short in silence: what else cannot be written there says so."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Nothing."""

    def close(self) -> None:
        """Close the file; what it cannot take any more is lost."""
        with suppress(OSError):
            super().close()


def _terminal() -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    return handler


@contextmanager
def _logging_by(handlers: Sequence[logging.Handler]) -> Iterator[None]:
    logger = logging.getLogger("dnis_lightning")
    handlers = handlers or [logging.NullHandler()]  # without any, warnings would find their way to standard error
    for handler in handlers:
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its notes on devices and plans
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
