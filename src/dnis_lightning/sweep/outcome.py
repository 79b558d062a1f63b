"""What the jobs of a sweep leave word of, each in a folder of its own below the sweep's."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from hydra.conf import HydraConf
from omegaconf import OmegaConf

from dnis_lightning.paths import expand, whole_file

_FILE = "outcome.json"


@dataclass(frozen=True)
class Outcome:
    """How a job ended: with the number that a sweep minimises, or with a fault, told in full sentences.

    overrides: what the job was asked to do.
    """

    number: float | None = None
    fault: str | None = None
    overrides: tuple[str, ...] = ()

    def write(self, folder: Path) -> None:
        """Leave word in a job's folder, whole or not at all."""
        with whole_file(folder / _FILE) as part:
            part.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Outcome | None:
        """What a job left word of, None where it did not get that far."""
        try:
            return cls(**json.loads((folder / _FILE).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None


def job_folder(hydra: HydraConf) -> Path:
    """Where a job of a sweep leaves word: on the disk that all machines of the sweep share."""
    return expand(Path(hydra.runtime.cwd) / str(hydra.sweep.dir) / str(hydra.sweep.subdir))


def faults(sweep: Path) -> list[str]:
    """What went wrong, in the order of the jobs, each with its number and with what the jobs differ in."""
    found = [(folder.name, Outcome.read(folder)) for folder in _job_folders(sweep)]
    outcomes = {number: outcome for number, outcome in found if outcome is not None}
    common = set.intersection(*(set(outcome.overrides) for outcome in outcomes.values())) if outcomes else set()
    return [
        f"job {number} ({' '.join(one for one in outcome.overrides if one not in common)}): {outcome.fault}"
        for number, outcome in outcomes.items()
        if outcome.fault is not None
    ]


def best_of_study(sweep: Path) -> str | None:
    """What a sweeper that searches has found, in a sentence; None where the sweep was a plain one."""
    path = sweep / "optimization_results.yaml"
    if not path.is_file():
        return None
    told = OmegaConf.load(path)
    chosen = " ".join(f"{key}={value}" for key, value in told.best_params.items())
    return f"best of the study: {told.best_value} with {chosen}; also in {path}"


def tidy(sweep: Path) -> None:
    """Remove what the jobs needed while the sweep was under way; Hydra's files and tracebacks stay."""
    for file in (*sweep.glob(f"*/{_FILE}"), *sweep.glob("gpu-*")):
        file.unlink(missing_ok=True)
    for folder in _job_folders(sweep):
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()


def _job_folders(sweep: Path) -> Iterator[Path]:
    numbers = [path for path in sweep.glob("*") if path.name.isdigit() and path.is_dir()]
    yield from sorted(numbers, key=lambda path: int(path.name))
