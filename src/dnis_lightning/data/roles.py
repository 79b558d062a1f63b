"""What the user says of a table's columns, put together from the keys that say it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from dnis_lightning.errors import ConfigError

Kind = Literal["categorical", "numeric", "multi", "ignore"]
"""What a user may take a column for."""


@dataclass(frozen=True)
class Roles:
    """The columns that keys name.

    kinds: of the columns for which it is said. fields: the only ones that are inputs, in their order, or None for all
    that are left. label: None where there is nothing to predict. keys: the key that names each column, for messages.
    """

    label: str | None
    kinds: Mapping[str, Kind]
    fields: tuple[str, ...] | None
    time: str | None
    user: str | None
    split: str | None
    keys: Mapping[str, str]

    @property
    def beside(self) -> dict[str, str]:
        """The columns that are no inputs, and what they are."""
        named = {"time": self.time, "split": self.split, "label": self.label}
        return {column: role for role, column in named.items() if column is not None}

    def order(self, columns: Sequence[str]) -> list[str]:
        """The columns with the fields in front, in the order that the user gave them, if any."""
        first = list(self.fields or ())
        return first + [column for column in columns if column not in first]


def put_together(
    *,
    label: str | None,
    fields: Sequence[str] | None,
    numeric: Sequence[str],
    multi: Sequence[str],
    kinds: Mapping[str, str],
    ignore: Sequence[str],
    time: str | None,
    user: str | None,
    split_column: str | None,
) -> Roles:
    """The roles that the keys of group `data` give. Raises ConfigError where two of them contradict each other."""
    for column, kind in kinds.items():
        if kind not in get_args(Kind):
            raise ConfigError(f"data.kinds={{{column}: {kind}}}: a column is one of {', '.join(get_args(Kind))}")
    said: dict[str, tuple[str, str]] = {}
    for column, kind, key in _said(numeric, multi, kinds, ignore):
        before, key_before = said.setdefault(column, (kind, key))
        if before != kind:
            raise ConfigError(f"{key}: {key_before} says otherwise of {column!r}; take it out of one of the two")
    given = {column: key for column, (_, key) in said.items()}
    inputs = dict.fromkeys(fields or (), "data.fields")
    for column, (kind, key) in said.items():
        if kind == "ignore" and column in inputs:
            raise ConfigError(f"{key}: data.fields has {column!r}, too; take it out of one of the two")
        if kind != "ignore":
            inputs.setdefault(column, key)
    beside = _beside(label, time, split_column, inputs)
    if user is not None:
        _check_user(user, beside, said, None if fields is None else inputs)
    users = {} if user is None else {user: f"data.user={user}"}
    return Roles(
        label,
        {column: kind for column, (kind, _) in said.items()},  # type: ignore[misc]
        None if fields is None else tuple(inputs),
        time,
        user,
        split_column,
        {**inputs, **given, **users, **beside},
    )


def _check_user(
    user: str, beside: Mapping[str, str], said: Mapping[str, tuple[str, str]], inputs: Mapping[str, str] | None
) -> None:
    kind, key = said.get(user, ("categorical", ""))
    if user in beside or kind != "categorical":
        raise ConfigError(
            f"data.user={user}: {beside.get(user, key)} says otherwise; the user has to be a categorical field"
        )
    if inputs is not None and user not in inputs:
        raise ConfigError(f"data.user={user}: it is not among data.fields; add it there")


def near(name: str, names: Sequence[str]) -> str:
    """`; did you mean …?`, if one of the names is much like it."""
    lower = {one.lower(): one for one in names}
    found = difflib.get_close_matches(name.lower(), list(lower), 1)
    return f"; did you mean {lower[found[0]]!r}?" if found else ""


def _said(
    numeric: Sequence[str], multi: Sequence[str], kinds: Mapping[str, str], ignore: Sequence[str]
) -> Iterator[tuple[str, str, str]]:
    """Column, kind, and the key that says so."""
    yield from ((column, "numeric", "data.numeric") for column in numeric)
    yield from ((column, "multi", "data.multi") for column in multi)
    yield from ((column, kind, f"data.kinds={{{column}: {kind}}}") for column, kind in kinds.items())
    yield from ((column, "ignore", "data.ignore") for column in ignore)


def _beside(label: str | None, time: str | None, split: str | None, inputs: Mapping[str, str]) -> dict[str, str]:
    """The key of each column that is no input."""
    found: dict[str, str] = {}
    for key, column in (("data.label", label), ("data.time", time), ("data.split_column", split)):
        if column is None:
            continue
        if other := found.get(column) or inputs.get(column):
            raise ConfigError(f"{key}={column}: {other} names this column, too; take it out of one of the two")
        found[column] = f"{key}={column}"
    return found
