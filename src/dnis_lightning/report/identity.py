"""What tells one configuration from another: flat keys, a name for each set of them, and the fewest that differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dnis_lightning.keys import flatten, moves_figures
from dnis_lightning.report.collect import Result, Run

Flat = Mapping[str, str]
"""Dotted keys of a configuration, and their values as JSON."""

PROFILE, WIDTH, BLOCKS, PRUNE = "profile", "search.base_dim", "search.blocks", "prune."
WIDTHS = {WIDTH, "search.method.base_dims"}
"""What a method's tables may be of several sizes by: K, and of MDE the widest block's share of it."""
_ASKED = {
    "seed",
    "search.method.seed",
    "search.trial",
    "search.rates",
    "search.budget",
    "prune.thresholds",
}  # which run of several, and which cuts, to make
_OF_ALL_SEARCHES = {f"search.{key}" for key in ("name", "base_dim", "blocks", "blocking", "blocks_per")}
"""What every method reads; all else is in the arguments of its own constructor, and often set for another."""
_PLUMBING = (".method.", ".source.", ".node.", ".interaction.", "features", "fields", "rows.")
_TELLING = (PROFILE, WIDTH, "model.l2", BLOCKS, "search.blocking", "optimizer.lr", "model.l2_bias")
_SHORT = {WIDTH: "K", BLOCKS: "L"}


def identity(run: Run) -> dict[str, str]:
    """Everything that a run was told and that moves its figures, seed, trial and the list of its cuts aside."""
    told = {**dict(_from_result(run.result)), **dict(flatten(run.config))}
    return {key: value for key, value in sorted(told.items()) if _counts(key)}


def without_pruning(config: Flat) -> dict[str, str]:
    """The part of an identity that an unpruned model depends on."""
    return {key: value for key, value in config.items() if not key.startswith(PRUNE)}


def without_model(config: Flat) -> dict[str, str]:
    """The part of an identity that does not depend on which model it is of."""
    return {key: value for key, value in config.items() if not key.startswith("model.")}


def name(config: Flat) -> str:
    """A short name, equal for equal configurations only."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]


def without(config: Flat, key: str) -> dict[str, str]:
    """The part of an identity that is not a key's, nor of what the key is passed on to in its group."""
    group, _, leaf = key.rpartition(".")
    return {
        name: value
        for name, value in config.items()
        if name != key and not (name.startswith(f"{group}.") and name.endswith(f".{leaf}") and _is_plumbing(name))
    }


def telling_keys(groups: Iterable[Sequence[Flat]]) -> list[str]:
    """The keys that tell the configurations of each group apart, as few as a look through them in order finds.

    Profile, K and L2 come first, then other keys of one's own choice, then what the configuration derives from them.
    """
    sets = [list(group) for group in groups]
    keys = {key for group in sets for config in group for key in config if len({c.get(key) for c in group}) > 1}
    chosen: list[str] = []
    for key in sorted(keys, key=_rank):
        if any(_distinct(group, [*chosen, key]) > _distinct(group, chosen) for group in sets):
            chosen.append(key)
    return chosen


def settings(config: Flat, keys: Sequence[str]) -> str:
    """`K = 8, l2 = 0`: the values of some keys, in words as short as they can be; keys of pruning only where there."""
    leaves = [key.rpartition(".")[2] for key in keys]
    shown = {
        key: _SHORT.get(key, leaf if leaves.count(leaf) == 1 else key) for key, leaf in zip(keys, leaves, strict=True)
    }
    told = (_setting(shown[key], config.get(key)) for key in keys if key in config or not key.startswith(PRUNE))
    return ", ".join(told)


def order(config: Flat, keys: Sequence[str]) -> tuple[tuple[bool, float, str], ...]:
    """Sorts configurations by the values of keys, numbers as numbers."""
    return tuple(_sortable(json.loads(config.get(key, "null"))) for key in keys)


def _from_result(result: Result) -> Iterator[tuple[str, str]]:
    """What `result.json` knows, under the configuration's own keys."""
    yield from flatten({"features": result.features, "fields": result.fields, "rows": result.rows.model_dump()})
    yield from flatten({"data": {k: getattr(result, k) for k in ("task", "split", "split_seed")}})
    yield from flatten({key: {"name": getattr(result, key)} for key in ("data", "model", "search")})
    yield from flatten({"profile": result.profile, "model": {"l2": result.l2, "l2_bias": result.l2_bias}})
    yield from flatten({"search": {"base_dim": result.base_dim, "blocks": result.blocks}})


def _counts(key: str) -> bool:
    if not moves_figures(key) or key in _ASKED:
        return False
    return not key.startswith("search.") or key in _OF_ALL_SEARCHES or key.startswith("search.method.")


def _rank(key: str) -> tuple[int, bool, str]:
    preferred = _TELLING.index(key) if key in _TELLING else len(_TELLING)
    return preferred, _is_plumbing(key), key


def _is_plumbing(key: str) -> bool:
    return any(part in f".{key}" for part in _PLUMBING)


def _distinct(group: Sequence[Flat], keys: Sequence[str]) -> int:
    return len({tuple(config.get(key) for key in keys) for config in group})


def _setting(key: str, value: str | None) -> str:
    if value is None:
        return f"no {key}"
    text = json.loads(value)
    text = text if isinstance(text, str) else value
    return f"{key} = {text if len(text) <= 40 else text[:39] + '…'}"


def _sortable(value: Any) -> tuple[bool, float, str]:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return not number, float(value) if number else 0.0, "" if number else str(value)
