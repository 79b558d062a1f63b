"""What a run has finished so far, so that a killed run goes on where it stopped."""

from __future__ import annotations

import pickle
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
    its name. history: rows and gates of all epochs. under_way: the step whose Lightning state the file holds.
    """

    path: Path
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    weights: dict[str, Tensor] | None = None
    weights_of: str | None = None
    history: dict[str, Any] = field(default_factory=dict)
    under_way: str | None = None
    step: str | None = None

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
        except (OSError, RuntimeError, KeyError, TypeError, EOFError, ValueError, pickle.UnpicklingError) as fault:
            reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
            raise RunError(f"{path}: the checkpoint cannot be read ({reason}); start again without resume=") from fault
        journal.under_way = state["step"] if has_step else None
        return journal

    def state(self) -> dict[str, Any]:
        """What travels in a checkpoint."""
        names = ("done", "weights", "weights_of", "history", "step")
        return {name: getattr(self, name) for name in names}

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
