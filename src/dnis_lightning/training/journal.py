"""What a run has finished so far, so that a killed run goes on where it stopped."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnis_lightning.errors import RunError
from dnis_lightning.folder import is_rank_zero
from dnis_lightning.paths import whole_file


@dataclass
class Journal:
    """The finished steps of a run, by name, and the one under way.

    A run is straight-line code of named steps. A step that the journal holds is not done again: its facts are read
    back, and its weights too if it was the last that left any. A step cut short goes on from Lightning's own state in
    the same file. What lies between two writings is done again, and comes out the same.

    Weights wait in files of their own beside it, `weights-1.ckpt` and so on, and take no memory meanwhile. No file is
    overwritten that the journal on disk refers to; what nothing refers to is removed when it has been written.

    path: `checkpoints/last.ckpt`. done: facts (JSON-able) of finished steps. weights: the file of what the last of them
    left, and its name. kept: by step, the files of what others left that is wanted later. best: the file of the best so
    far of the step under way. history: rows and gates of all epochs. step: the step under way. under_way: the step
    whose Lightning state the file holds. before: seconds that earlier processes spent up to the file's writing;
    step_began: the same clock at the start of `step`.
    writes: whether this process is the one that writes.
    """

    path: Path
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    weights: str | None = None
    weights_of: str | None = None
    kept: dict[str, str] = field(default_factory=dict)
    best: str | None = None
    history: dict[str, Any] = field(default_factory=dict)
    under_way: str | None = None
    step: str | None = None
    before: float = 0.0
    step_began: float = 0.0
    opened: float = field(default_factory=time.perf_counter)
    writes: bool = field(default_factory=is_rank_zero)

    def __post_init__(self) -> None:
        self._on_disk: set[str | None] = self._referred_to
        self._aside: set[str] = set()

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Read a run's journal, or begin one where there is no file.

        Raises RunError when the file cannot be read.
        """
        if not path.exists():
            return cls(path)
        checkpoint = _loaded(path)
        try:
            state, has_step = checkpoint["run"], "loops" in checkpoint
            names = ("done", "weights", "weights_of", "best", "history")
            journal = cls(path, **{name: state[name] for name in names}, kept=state.get("kept", {}))
            journal.before, journal.step_began = state["seconds"], state["step_began"]
        except (KeyError, TypeError) as fault:
            raise _unreadable(path, fault) from fault
        journal.under_way = state["step"] if has_step else None
        return journal

    def let_go(self) -> None:
        """Keep no longer what was wanted later."""
        if self.kept:
            self.kept.clear()
            self.write()

    def state(self) -> dict[str, Any]:
        """What travels in a checkpoint."""
        names = ("done", "weights", "weights_of", "kept", "best", "history", "step", "step_began")
        return {name: getattr(self, name) for name in names} | {"seconds": self.seconds()}

    def save(self, weights: Mapping[str, Any]) -> str:
        """Write weights to a file that is not in use, and return its name."""
        in_use = self._referred_to | self._on_disk | self._aside
        name = next(name for name in (f"weights-{number}.ckpt" for number in count(1)) if name not in in_use)
        if self.writes:
            with whole_file(self.path.with_name(name)) as part:
                torch.save(dict(weights), part)
        return name

    def load(self, name: str) -> dict[str, Tensor]:
        """Weights from a file of that name, mapped into memory.

        Raises RunError when they cannot be read.
        """
        return _loaded(self.path.with_name(name))

    @contextmanager
    def aside(self, weights: Mapping[str, Any]) -> Iterator[str]:
        """Keep weights in a file for a while, whatever is written meanwhile; yields its name."""
        name = self.save(weights)
        self._aside.add(name)
        try:
            yield name
        finally:
            self._aside.remove(name)

    def seconds(self) -> float:
        """Time spent on this run by all its processes, but for what was lost between a last writing and a kill."""
        return self.before + time.perf_counter() - self.opened

    def begin(self, step: str) -> bool:
        """Note the step under way; whether it goes on from the state in the file."""
        resumes = self.under_way == step
        self.step = step
        if not resumes:
            self.step_began, self.best = self.seconds(), None
        return resumes

    def seconds_of_step(self) -> float:
        """Time spent on the step under way."""
        return self.seconds() - self.step_began

    def record(self, step: str, facts: Mapping[str, Any], weights: str | None = None, *, keep: bool = False) -> None:
        """Note a finished step; weights, the name of their file, take the place of those of the step before.

        keep: whether they stay when others take theirs.
        """
        self.done[step] = dict(facts)
        self.under_way = self.best = None
        if weights is not None:
            self.weights, self.weights_of = weights, step
            if keep:
                self.kept[step] = weights

    def write(self) -> None:
        """Write the journal alone, between two trainings."""
        self.step = None
        if self.writes:
            with whole_file(self.path) as part:
                torch.save({"run": self.state()}, part)
        self.written()

    def written(self) -> None:
        """Note that the file is that of now. Other weights than it refers to can go, once all ranks have read them."""
        all_ranks_here()
        self._on_disk = self._referred_to
        for file in self.path.parent.glob("*weights-*.ckpt*") if self.writes else ():  # half-written ones, too
            if file.name not in self._on_disk | self._aside:
                file.unlink()

    @property
    def _referred_to(self) -> set[str | None]:
        return {self.weights, self.best, *self.kept.values()}


def all_ranks_here() -> None:
    """Wait until every rank has come this far, and so sees the files that rank zero has written before."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def _loaded(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, TypeError, EOFError, ValueError, pickle.UnpicklingError) as fault:
        raise _unreadable(path, fault) from fault


def _unreadable(path: Path, fault: Exception) -> RunError:
    reason = f" ({fault.strerror})" if isinstance(fault, OSError) and fault.strerror else ", it is damaged"
    way_on = "remove the folder it is in, and resume= begins this run anew"
    return RunError(f"{path}: the checkpoint cannot be read{reason}; {way_on}")
