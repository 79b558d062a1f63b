"""Which runs count, and what they say, in long form: one row a run and cut.

Of re-runs the newest counts; of single-trial jobs of one seed the best on the select split, at the price of all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dnis_lightning.measures import cost_on_select, monitor
from dnis_lightning.quantities import STARTS_AFRESH
from dnis_lightning.report import identity
from dnis_lightning.report.collect import Diagnostics, Part, Run

UNPRUNED = "unpruned"
CALIBRATED = ("predicted", "observed", "error")
USED = "yes"
SUPERSEDED, WHOLE_COUNTS = "no, superseded by a later run", "no, a run of all trials counts"


@dataclass(frozen=True)
class Settled:
    """All runs in long form, with the configurations of its rows and what was decided on the way.

    frame: a row for each run and cut. `used` says whether it counts, and why not; `config` and `base` name the
    configurations of the cut and of the unpruned model it comes from; `seconds` is the price of that row; metrics are
    `select/…` and `test/…`, NaN where there are none; `groups` are lists of `Result.groups`.
    configs: the identity behind each `config`, see `identity.identity`.
    notes: sentences for the reader.
    """

    frame: pd.DataFrame
    configs: Mapping[str, Mapping[str, str]]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Entry:
    """A run, what it was told, whether it counts, and the single-trial jobs that it was chosen from, if it was."""

    run: Run
    config: Mapping[str, str]
    used: str = USED
    jobs: tuple[Run, ...] = ()


def settle(runs: Sequence[Run]) -> Settled:
    """Decide which runs count, and lay all of them out."""
    entries = [_Entry(run, identity.identity(run)) for run in runs]
    entries = list(_newest(entries))
    entries = list(_best_trials(entries))
    configs: dict[str, Mapping[str, str]] = {}
    frame = pd.DataFrame([row for entry in entries for row in _rows(entry, configs)])
    frame, twice = _one_a_seed(frame)
    return Settled(frame, configs, (*_notes(entries), *twice))


def _newest(entries: Sequence[_Entry]) -> Iterator[_Entry]:
    """Of runs with the same fingerprint, seed and trial, all but the newest do not count."""
    for group in _grouped(entries, lambda entry: (_work(entry), entry.run.result.seed, entry.run.result.trial)):
        newest = max(group, key=lambda entry: (entry.run.made, str(entry.run.path)))
        for entry in group:
            yield _Entry(entry.run, entry.config, USED if entry is newest else SUPERSEDED)


def _work(entry: _Entry) -> str:
    return entry.run.fingerprint or identity.name({**entry.config, **dict(_cuts(entry.run))})


def _cuts(run: Run) -> Iterator[tuple[str, str]]:
    yield "cuts", ",".join(sorted(part.budget for part in run.result.pruned))


def _best_trials(entries: Sequence[_Entry]) -> Iterator[_Entry]:
    """Single-trial jobs of one configuration and seed become one entry that counts, with all of them as its jobs."""
    yield from (entry for entry in entries if entry.used != USED)
    counting = [entry for entry in entries if entry.used == USED]
    for group in _grouped(counting, lambda entry: (identity.name(entry.config), entry.run.result.seed)):
        whole = [entry for entry in group if entry.run.result.trial is None]
        jobs = [entry for entry in group if entry.run.result.trial is not None]
        yield from whole
        best = min(jobs, key=lambda entry: (_score(entry.run), entry.run.result.trial), default=None)
        for entry in jobs:
            if entry is best and not whole:
                yield _Entry(entry.run, entry.config, USED, tuple(job.run for job in jobs))
            else:
                yield _Entry(entry.run, entry.config, WHOLE_COUNTS if whole else "no, not the best trial")


def _score(run: Run) -> float:
    """What trials are compared by on the select split: smaller is better, infinite where it is no number."""
    metrics = run.result.unpruned.metrics
    names = [name.removeprefix("select/") for name in metrics if name.startswith("select/")]
    decisive = monitor(run.result.task, names)
    return cost_on_select(decisive, metrics)


def _rows(entry: _Entry, configs: dict[str, Mapping[str, str]]) -> Iterator[dict[str, Any]]:
    base = identity.without_pruning(entry.config)
    jobs = entry.jobs or (entry.run,)
    alone = sum(job.result.seconds.total - sum(cut.seconds for cut in job.result.pruned) for job in jobs)
    starts_afresh = entry.run.result.schedule in STARTS_AFRESH  # its cuts need nothing of the unpruned model
    for part in (entry.run.result.unpruned, *entry.run.result.pruned):
        config = entry.config if part.budget else base
        row = {"config": identity.name(config), "base": identity.name(base)}
        configs.setdefault(row["config"], config)
        before = entry.run.result.seconds.prepare if part.budget and starts_afresh else max(alone, 0.0)
        told = {"seconds": before + part.seconds, "groups": entry.run.result.groups(part)}
        yield {**_run_columns(entry), **row, **_part_columns(part), **told}


def _run_columns(entry: _Entry) -> dict[str, Any]:
    result = entry.run.result
    told = ("data", "task", "model", "search", "profile", "split", "split_seed", "seed", "trial", "features", "fields")
    more = ("base_dim", "chosen_dim", "blocks", "l2", "l2_bias")
    return {
        "used": entry.used,
        "path": str(entry.run.path),
        "made": entry.run.made,
        **{key: getattr(result, key) for key in (*told, *more)},
        **{f"rows_{part}": rows for part, rows in result.rows.model_dump().items()},
        "warnings": "\n".join(result.doubts),
        **_search_columns(result.diagnostics),
        "trial_name": result.trials[0].get("name", "") if result.trial is not None and result.trials else "",
        "jobs": max(len(entry.jobs), 1),
        "seconds_of_job": result.seconds.total,
        "device": " ".join(str(result.environment.get(key, "unknown")) for key in ("device", "threads", "processes")),
    }


def _search_columns(told: Diagnostics | None) -> dict[str, float]:
    """Of each block, of the worst of them, and what there is of all; nothing without a search."""
    if told is None or not told.blocks:
        return {}
    shares = [_float(block.data_share) for block in told.blocks]
    signals = [_float(block.signal) for block in told.blocks]
    return {
        "search_data_share": float(np.min(shares)),
        "search_signal": float(np.min(signals)),
        **{f"search_data_share_{number}": share for number, share in enumerate(shares, 1)},
        **{f"search_signal_{number}": one for number, one in enumerate(signals, 1)},
        "search_dead": sum(block.dead for block in told.blocks),
        **{f"search_drift_{when}": _float(value) for when, value in told.drift.items()},
        "search_gap_growth": _float((told.gap or {}).get("growth")),
    }


def _float(value: float | None) -> float:
    return math.nan if value is None else value


def _part_columns(part: Part) -> dict[str, Any]:
    sizes = ("kept", "compression_rate", "bytes", "layout", "coo_bytes", "coo_npz_bytes")
    return {
        "cut": part.budget or UNPRUNED,
        **{key: getattr(part, key) for key in sizes},
        **{name: _float(value) for name, value in part.metrics.items()},
        **{f"{end}_{name}": _float(value) for name, one in part.differences.items() for end, value in one.items()},
        **{f"calibration_{key}": (part.calibration or {}).get(key, math.nan) for key in CALIBRATED},
    }


def _one_a_seed(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Of runs that differ only in what they cut, one gives the unpruned model, and one each cut: the newest."""
    counting = frame[frame["used"] == USED].sort_values(["made", "path"])
    older = counting.index[counting.duplicated(["config", "cut", "seed"], keep="last")]
    frame = frame.copy()
    frame.loc[older, "used"] = "no, the same from a later run"
    if older.empty:
        return frame, []
    return frame, [
        f"{len(older)} models come from more than one run of the same configuration and seed (say, once cut and once "
        "not); of each the newest counts."
    ]


def _notes(entries: Sequence[_Entry]) -> Iterator[str]:
    again = [entry for entry in entries if entry.used == SUPERSEDED]
    if again:
        yield f"{len(again)} runs were run again later with the same configuration and seed; the newest counts."
    passed = [entry for entry in entries if entry.used == WHOLE_COUNTS]
    if passed:
        yield f"{len(passed)} single-trial jobs are passed over, as a run of all trials is there."


def _grouped(entries: Iterable[_Entry], key: Any) -> list[list[_Entry]]:
    groups: dict[Any, list[_Entry]] = {}
    for entry in entries:
        groups.setdefault(key(entry), []).append(entry)
    return list(groups.values())
