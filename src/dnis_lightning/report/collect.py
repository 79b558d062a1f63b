"""Finds `result.json` files, reads and checks them, gives them as values, and names what cannot be used."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from dnis_lightning.errors import UserError

SCHEMA = 1
TELLING = ("by", "name", "least", "most", "rows")
"""What identifies a group of test rows, and how many it has."""
RESULT, CONFIG, FINGERPRINT = "result.json", "config.yaml", "fingerprint"


class Part(BaseModel):
    """The unpruned model or one cut, as `result.json` has it. Sizes are of the table alone, in entries and bytes."""

    model_config = ConfigDict(frozen=True)

    kept: int
    bytes: int
    metrics: dict[str, float | None]
    budget: str = ""
    compression_rate: float | None = None
    layout: str = "dense"
    coo_bytes: int | None = None
    coo_npz_bytes: int | None = None
    seconds: float = 0.0
    differences: dict[str, dict[str, float | None]] = {}
    calibration: dict[str, Any] | None = None


class Seconds(BaseModel):
    """What a job took; all of it is `total`."""

    model_config = ConfigDict(frozen=True)

    total: float
    prepare: float = 0.0


class Rows(BaseModel):
    """How many rows each part of the split has."""

    model_config = ConfigDict(frozen=True)

    train: int
    search: int
    select: int
    test: int


class BlockTold(BaseModel):
    """What a run says of a block in its search; see `search.diagnosis.BlockHealth`. None where that diverged."""

    model_config = ConfigDict(frozen=True)

    data_share: float | None
    signal: float | None
    dead: bool


class Group(BaseModel):
    """Test rows of features that occur about as often, and what the models make of them; other keys are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    unpruned: dict[str, Any]
    cuts: dict[str, dict[str, Any]]
    by: str
    name: str
    least: int | None
    most: int | None
    rows: int


class WhoPays(BaseModel):
    """The groups of test rows, and the metric that they are compared by."""

    model_config = ConfigDict(frozen=True)

    metric: str
    groups: tuple[Group, ...]


class Diagnostics(BaseModel):
    """What a run says of its search: figures, and sentences on why it is not to be trusted, if there are reasons."""

    model_config = ConfigDict(frozen=True)

    blocks: tuple[BlockTold, ...] = ()
    drift: dict[str, float | None] = {}
    gap: dict[str, float | None] | None = None
    warnings: tuple[str, ...] = ()


class Result(BaseModel):
    """The keys of `result.json` that the report needs; those that older runs lack have defaults."""

    model_config = ConfigDict(frozen=True)

    data: str
    model: str
    search: str
    profile: str
    task: str
    seed: int
    split: str
    split_seed: int
    trial: int | None
    rows: Rows
    features: int
    fields: int
    base_dim: int
    unpruned: Part
    pruned: tuple[Part, ...]
    seconds: Seconds
    chosen_dim: Any = None
    schedule: str = ""
    blocks: int | None = None
    l2: float | None = None
    l2_bias: float | None = None
    diagnostics: Diagnostics | None = None
    warnings: tuple[str, ...] | None = None
    trials: tuple[dict[str, Any], ...] = ()
    who_pays: WhoPays | None = None
    environment: dict[str, Any] = {}

    @property
    def doubts(self) -> tuple[str, ...]:
        """All that the run warns of; older runs have what their searches warned of."""
        if self.warnings is not None:
            return self.warnings
        return self.diagnostics.warnings if self.diagnostics else ()

    def groups(self, part: Part) -> list[dict[str, Any]]:
        """The groups of test rows, with their values of the unpruned model or of a cut; none of earlier versions."""
        told, cut = self.who_pays, part.budget
        if told is None:
            return []
        return [
            {key: getattr(group, key) for key in TELLING}
            | {"metric": told.metric}
            | (group.cuts[cut] if cut else group.unpruned)
            for group in told.groups
            if not cut or cut in group.cuts
        ]


@dataclass(frozen=True)
class Run:
    """A finished run: where it is, what it left, its configuration (empty where there is none), when it was begun."""

    path: Path
    result: Result
    config: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    made: str = ""


@dataclass(frozen=True)
class Collected:
    """The runs found, each once, in order of their paths; a sentence on each file that was passed over."""

    runs: tuple[Run, ...]
    skipped: tuple[str, ...]


def collect(paths: Sequence[Path]) -> Collected:
    """Read every `result.json` in and below folders, and the files named themselves.

    Raises UserError when a path does not exist, or when there is nothing that can be read.
    """
    absent = [str(path) for path in paths if not path.exists()]
    if absent:
        raise UserError(f"{', '.join(absent)}: there is no such file or folder; name folders of finished runs")
    runs: dict[Path, Run] = {}
    skipped: list[str] = []
    for path in paths:
        for found in _find(path, skipped):
            if found.resolve() not in runs:
                _add(found, runs, skipped)
    if not runs:
        more = "".join(f"\n  {line}" for line in dict.fromkeys(skipped))
        raise UserError(f"{', '.join(map(str, paths))}: no result.json of a finished run that can be read{more}")
    return Collected(tuple(runs[path] for path in sorted(runs)), tuple(dict.fromkeys(skipped)))


def _find(path: Path, skipped: list[str]) -> Iterator[Path]:
    """The result files at and below a path; unfinished runs and folders that cannot be looked into are noted."""
    if not path.is_dir():
        yield path
        return
    for folder, inner, files in os.walk(path, onerror=lambda fault: skipped.append(_told(fault.filename, fault))):
        inner.sort()
        if RESULT in files:
            yield Path(folder, RESULT)
        elif FINGERPRINT in files:
            skipped.append(f"{folder}: an unfinished run, it has no {RESULT} yet")


def _add(path: Path, runs: dict[Path, Run], skipped: list[str]) -> None:
    try:
        result = _parse(path.read_text(encoding="utf-8"))
        runs[path.resolve()] = Run(path, result, _config(path, skipped), _fingerprint(path), _made(path))
    except OSError as fault:
        skipped.append(_told(path, fault))
    except (ValueError, RecursionError) as fault:
        skipped.append(f"{path}: {fault}")


def _told(path: Any, fault: OSError) -> str:
    return f"{path}: cannot be read ({fault.strerror})"


def _parse(text: str) -> Result:
    """Raises ValueError with the reason when a text is no result of a run that this version knows."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as fault:
        raise ValueError(f"not JSON, or half of it ({fault})") from fault
    if not isinstance(value, dict) or "schema" not in value:
        raise ValueError("JSON, but no result of a run: it has no key schema")
    if value["schema"] != SCHEMA:
        raise ValueError(f"of schema {value['schema']!r}; this version reads schema {SCHEMA}")
    try:
        return Result.model_validate(value)
    except ValidationError as fault:
        raise ValueError(_reasons(fault)) from fault


def _reasons(fault: ValidationError) -> str:
    """Missing keys and unfit values in one line."""
    errors = [(".".join(map(str, error["loc"])), error) for error in fault.errors(include_url=False)]
    missing = [key for key, error in errors if error["type"] == "missing"]
    wrong = [f"{key}: {error['msg']}, got {error['input']!r:.40}" for key, error in errors if key not in missing]
    return "; ".join([f"it lacks {', '.join(missing)}"] * bool(missing) + wrong)


def _config(path: Path, skipped: list[str]) -> Mapping[str, Any]:
    """The configuration beside a result; empty where there is none, and noted where it cannot be read."""
    try:
        config = yaml.safe_load(path.with_name(CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as fault:
        reason = " ".join(str(fault).split())
        skipped.append(f"{path.with_name(CONFIG)}: cannot be read ({reason}); told apart by {RESULT} alone")
        return {}
    return config if isinstance(config, dict) else {}


def _fingerprint(path: Path) -> str:
    try:
        return path.with_name(FINGERPRINT).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def _made(path: Path) -> str:
    """When a run was begun, as its folder's name says; else when its result was written. Sorts as text."""
    stamp = re.match(r"\d{8}-\d{6}", path.resolve().parent.name)
    return stamp[0] if stamp else time.strftime("%Y%m%d-%H%M%S", time.localtime(path.stat().st_mtime))
