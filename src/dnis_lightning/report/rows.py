"""The rows of a table: how methods, settings and cuts are called, and in which order they stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from dnis_lightning.report import identity
from dnis_lightning.report.settle import UNPRUNED

_METHODS = {
    "none": "Plain table",
    "grid": "Grid Search",
    "random": "Random Search",
    "mde": "MDE",
    "nis_se": "NIS-SE",
    "nis_me": "NIS-ME",
    "magnitude": "Network pruning",
    "pep": "PEP",
    "dnis": "DNIS",
}
_NOTHING_TO_PRUNE = {
    "none",
    "grid",
    "random",
    "mde",
    "nis_se",
    "nis_me",
}  # these end with a table that is whole as it is


def method(search: str) -> str:
    """A search by the name it has in the paper."""
    return _METHODS.get(search, search)


def with_labels(frame: pd.DataFrame, configs: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """Adds `settings`, the values by which configurations of one search differ, `narrower`, these without
    its widths, `width`, those alone, `row`, the full name, and its `place`.

    Equal names stand for one configuration in each model; the rows come sorted: search, settings, cut.
    """
    named = pd.concat([_named(part, configs) for _, part in frame.groupby("search", sort=False)])
    ranks = {search: rank for rank, search in enumerate(sorted(named["search"].unique(), key=_rank))}
    named = named.assign(_search=named["search"].map(ranks), _whole=named["cut"] != UNPRUNED, _kept=-named["kept"])
    named = named.sort_values(["_search", "_settings", "_whole", "_kept", "_pruning", "seed"], kind="stable")
    places = {row: place for place, row in enumerate(named["row"].drop_duplicates())}
    return named.assign(place=named["row"].map(places)).drop(
        columns=[name for name in named if str(name).startswith("_")]
    )


def _rank(search: str) -> tuple[float, str]:
    """The paper's order; what it does not know stands before DNIS."""
    known = list(_METHODS)
    return (known.index(search) if search in known else known.index("dnis") - 0.5, search)


def _named(frame: pd.DataFrame, configs: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """The rows of one search."""
    keys = identity.telling_keys(_to_tell_apart(frame, configs))
    told = [configs[name] for name in frame["config"]]
    wide, narrow = ([key for key in keys if (key in identity.WIDTHS) is one] for one in (True, False))
    frame = frame.assign(
        settings=[identity.settings(config, keys) for config in told],
        narrower=[identity.settings(config, narrow) for config in told],
        width=[identity.settings(config, wide) for config in told],
        _settings=_ordered(frame, told, [key for key in keys if not key.startswith(identity.PRUNE)]),
        _pruning=_ordered(frame, told, [key for key in keys if key.startswith(identity.PRUNE)]),
    )
    frame["settings"] = _told_apart(frame)
    return frame.assign(
        row=[_label(*told) for told in zip(frame["search"], frame["cut"], frame["settings"], strict=True)]
    )


def _to_tell_apart(frame: pd.DataFrame, configs: Mapping[str, Mapping[str, str]]) -> Iterator[list[Mapping[str, str]]]:
    """Groups whose configurations need names of their own: each model's, and what different models were trained by."""
    for _, part in frame.groupby(["model", "cut"], sort=False):
        yield [configs[name] for name in part["config"].unique()]
    for _, part in frame.groupby("cut", sort=False):
        yield [identity.without_model(configs[name]) for name in part["config"].unique()]


def _ordered(frame: pd.DataFrame, configs: Sequence[Mapping[str, str]], keys: Sequence[str]) -> pd.Series:
    return pd.Series([identity.order(config, keys) for config in configs], frame.index, dtype=object)


def _told_apart(frame: pd.DataFrame) -> list[str]:
    """The settings, numbered where two configurations would otherwise look the same."""
    seen: dict[Any, list[str]] = {}
    told = []
    for model, cut, settings, config in frame[["model", "cut", "settings", "config"]].itertuples(index=False):
        same = seen.setdefault((model, cut, settings), [])
        same.extend([config] * (config not in same))
        number = same.index(config)
        told.append(settings if not number else f"{settings} [{number + 1}]".strip())
    return told


def _label(search: str, cut: str, settings: str) -> str:
    whole = "" if search in _NOTHING_TO_PRUNE else f" ({UNPRUNED})"
    return ", ".join(filter(None, (f"{method(search)}{whole if cut == UNPRUNED else f' ({cut})'}", settings)))


def in_common(configs: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """`profile = default`, `K = 64`: what all rows of a table share, of what a reader asks first."""
    for key in (identity.PROFILE, identity.WIDTH, identity.BLOCKS):
        if len({config.get(key) for config in configs}) == 1 and key in configs[0]:
            yield identity.settings(configs[0], [key])
