"""Of configurations that differ in one key, as an L2, that which is best on select."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from dnis_lightning.errors import UserError
from dnis_lightning.measures import cost, monitor
from dnis_lightning.report import identity
from dnis_lightning.report.settle import USED, Settled
from dnis_lightning.report.tables import metrics_of, values


def choose(settled: Settled, key: str) -> Settled:
    """Of rows that differ in a key alone, those count whose mean over the seeds is best on select.

    Each cut chooses for itself. From then on configurations are told apart without the key; the frame has it as a
    column. Seeds that one of the rivals lacks do not choose. Raises UserError when no run has the key.
    """
    if key in ("search.budget", "search.rates"):
        raise UserError(f"--choose {key}: what a run cuts to is a row of its own already; choose among other keys")
    if not any(key in config for config in settled.configs.values()):
        raise UserError(f"--choose {key}: no run has this key; is it misspelt? Keys are written as in model.l2")
    told = {name: identity.without(config, key) for name, config in settled.configs.items()}
    names = {name: identity.name(config) for name, config in told.items()}
    frame = settled.frame.assign(_rival=settled.frame["config"].map(names))
    frame[key] = [settled.configs[name].get(key) for name in frame["config"]]
    frame.loc[_passed_over(frame[frame["used"] == USED]), "used"] = f"no, another {key} is better on select"
    tried = sorted(frame[key].dropna().unique(), key=lambda value: identity.order({key: value}, [key]))
    note = f"{key} was chosen for each row, by the mean over its seeds on select, of {', '.join(tried)}."
    return replace(
        settled,
        frame=frame.assign(config=frame.pop("_rival"), base=frame["base"].map(names)),
        configs={names[name]: config for name, config in told.items()},
        notes=(*settled.notes, note),
    )


def _passed_over(counting: pd.DataFrame) -> pd.Index:
    """The rows that another configuration of the same rivals and cut is better than, over the seeds that all have."""
    groups = counting.assign(_cost=_costs(counting)).groupby(["_rival", "cut"])
    best = {(part["_rival"].iloc[0], part["cut"].iloc[0], _best(part)) for _, part in groups}
    rows = zip(counting["_rival"], counting["cut"], counting["config"], strict=True)
    return counting.index[[row not in best for row in rows]]


def _best(rivals: pd.DataFrame) -> str:
    """The configuration of the least mean over the seeds of all, or over what there is where they share none."""
    costs = rivals.pivot(index="seed", columns="config", values="_cost")
    whole = costs.dropna()
    return str((whole if len(whole) else costs).mean().idxmin())


def _costs(counting: pd.DataFrame) -> pd.Series:
    """What decides on select, so that smaller is better; infinite where training diverged."""
    parts = []
    for task, part in counting.groupby("task"):
        decisive = monitor(str(task), metrics_of(part))
        parts.append(values(part, f"select/{decisive}").map(lambda value, name=decisive: cost(name, value)))
    return pd.concat(parts)
