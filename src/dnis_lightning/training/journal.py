"""What a run has finished so far, so that a killed run goes on where it stopped."""

from __future__ import annotations

import pickle
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnis_lightning.errors import RunError
from dnis_lightning.paths import whole_file


@dataclass
class Journal:
    """The finished steps of a run, by name, and the one under way.

    A run is straight-line code of named steps. A step that the journal holds is not done again: its facts are read
    back, and its weights too if it was the last that left any. A step cut short goes on from Lightning's own state in
    the same file. What lies between two writings is done again, and comes out the same.

    path: `checkpoints/last.ckpt`. done: facts (JSON-able) of finished steps. weights: what the last of them left, and
    its name. history: rows and gates of all epochs. step: the step under way. under_way: the step whose Lightning state
    the file holds. before: seconds that earlier processes spent up to the file's writing; step_began: the same clock at
    the start of `step`.
    """

    path: Path
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    weights: dict[str, Tensor] | None = None
    weights_of: str | None = None
    history: dict[str, Any] = field(default_factory=dict)
    under_way: str | None = None
    step: str | None = None
    before: float = 0.0
    step_began: float = 0.0
    opened: float = field(default_factory=time.perf_counter)

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Read a run's journal, or begin one where there is no file.

        Raises RunError when the file cannot be read.
        """
        if not path.exists():
            return cls(path)
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            state, has_step = checkpoint["run"], "loops" in checkpoint
            journal = cls(path, state["done"], state["weights"], state["weights_of"], state["history"])
            journal.before, journal.step_began = state["seconds"], state["step_began"]
        except (OSError, RuntimeError, KeyError, TypeError, EOFError, ValueError, pickle.UnpicklingError) as fault:
            reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
            raise RunError(f"{path}: the checkpoint cannot be read ({reason}); start again without resume=") from fault
        journal.under_way = state["step"] if has_step else None
        return journal

    def state(self) -> dict[str, Any]:
        """What travels in a checkpoint."""
        names = ("done", "weights", "weights_of", "history", "step", "step_began")
        return {name: getattr(self, name) for name in names} | {"seconds": self.seconds()}

    def seconds(self) -> float:
        """Time spent on this run by all its processes, but for what was lost between a last writing and a kill."""
        return self.before + time.perf_counter() - self.opened

    def begin(self, step: str) -> bool:
        """Note the step under way; whether it goes on from the state in the file."""
        resumes = self.under_way == step
        self.step = step
        if not resumes:
            self.step_began = self.seconds()
        return resumes

    def seconds_of_step(self) -> float:
        """Time spent on the step under way."""
        return self.seconds() - self.step_began

    def record(self, step: str, facts: Mapping[str, Any], weights: dict[str, Tensor] | None = None) -> None:
        """Note a finished step; weights, if given, take the place of those kept before."""
        self.done[step] = dict(facts)
        self.under_way = None
        if weights is not None:
            self.weights, self.weights_of = weights, step

    def write(self) -> None:
        """Write the journal alone, between two trainings."""
        self.step = None
        with whole_file(self.path) as part:
            torch.save({"run": self.state()}, part)
