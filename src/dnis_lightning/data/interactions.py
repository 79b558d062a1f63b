"""Who had what: implicit feedback, in which every row of the data is one item that one user had."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from dnis_lightning.data.arrays import row_slices
from dnis_lightning.data.prepare import Prepared
from dnis_lightning.data.source import PARTS, Field
from dnis_lightning.errors import ConfigError, DataError


@dataclass(frozen=True, eq=False)
class Histories:
    """The items of each user, each once, ascending by place in the catalogue.

    starts (U + 1,): user u has items[starts[u] : starts[u + 1]].
    """

    starts: np.ndarray
    items: np.ndarray

    @classmethod
    def of(cls, users: np.ndarray, items: np.ndarray, count: int) -> Histories:
        """From pairs of a user, of `count` many, and an item, ascending."""
        return cls(np.searchsorted(users, np.arange(count + 1)), items)

    def counts(self) -> np.ndarray:
        """(U,) how many items each user has."""
        return np.diff(self.starts)

    def of_users(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The items of some users (Q,), T in all: of each the place of its user among these, (T,), and itself, (T,)."""
        counts = self.counts()[users]
        owner = np.repeat(np.arange(len(users)), counts)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        return owner, self.items[self.starts[users][owner] + within]


def user_column(name: str, fields: Sequence[Field], user_field: str | None) -> int:
    """Which of two fields is the user; the other is the item.

    Raises ConfigError unless data are users and items, and it is known which is which.
    """
    names = [one.name for one in fields]
    if len(names) != 2 or any(one.kind != "categorical" for one in fields):
        told = ", ".join(f"{one.name} ({one.kind})" for one in fields[:5]) + (", …" if len(fields) > 5 else "")
        raise ConfigError(
            f"data.task=topk: it takes two categorical fields, user and item, {name} has {told}; a table's are named "
            "with data.fields=[…], and kinds with data.kinds"
        )
    if user_field not in names:
        raise ConfigError(f"data.task=topk: which of {names[0]} and {names[1]} is the user? Name it with data.user=")
    return names.index(user_field)


@dataclass(frozen=True, eq=False)
class Interactions:
    """Rows of two categorical fields as users and items.

    A user is known by the raw code, as those who share a table row are several users still; an item by its place: in
    the catalogue, 0 … M − 1, the items with a table row of their own, the most frequent first; beyond it, from M on,
    those that are cold: without a row, such as one that no training row has.

    user_column, item_column: their columns in `Batch.ids`.
    """

    prepared: Prepared
    user_column: int
    item_column: int
    _known: dict[tuple[str, ...], Histories] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, prepared: Prepared) -> Interactions:
        """Raises ConfigError as `user_column` does, and DataError where a row has no user or no item."""
        dataset = prepared.dataset
        column = user_column(dataset.name, dataset.fields, dataset.user_field)
        for number, one in enumerate(dataset.fields):
            if dataset.code_of_missing(number) is not None:
                raise DataError(
                    f"data.task=topk: {dataset.name} has rows without {one.name!r}; leave them out, as nobody had them"
                )
        return cls(prepared, column, 1 - column)

    @property
    def users(self) -> int:
        """U, all users of the data."""
        return self.prepared.dataset.cardinalities[self.user_column]

    @property
    def catalogue(self) -> int:
        """M, the items that can be recommended."""
        offsets = self.prepared.vocabulary.offsets
        return int(offsets[self.item_column + 1] - offsets[self.item_column]) - 1

    @property
    def frequency(self) -> np.ndarray:
        """(M,) how often each item occurs in train."""
        first = self.first_item_row
        return self.prepared.vocabulary.frequency[first : first + self.catalogue]

    @property
    def first_item_row(self) -> int:
        """The table row of the first item of the catalogue; the others follow."""
        return int(self.prepared.vocabulary.offsets[self.item_column]) + 1

    def user_rows(self, users: np.ndarray) -> np.ndarray:
        """(Q,) the table row of each of some users (Q,)."""
        vocabulary = self.prepared.vocabulary
        return vocabulary.local[self.user_column][users].astype(np.int64) + vocabulary.offsets[self.user_column]

    def item_rows(self, codes: np.ndarray) -> np.ndarray:
        """The table row of each of some items by their raw codes, of any shape; −1 for code −1 and for cold items."""
        row = self.prepared.vocabulary.local[self.item_column][np.maximum(codes, 0)].astype(np.int64)
        return np.where((codes < 0) | (row == 0), -1, row + self.first_item_row - 1)

    def known(self, parts: Iterable[str]) -> Histories:
        """What the users had in some parts, cold items aside; worked out once."""
        key = tuple(sorted(set(parts)))
        if key not in self._known:
            users, items = self.pairs(key)
            warm = items < self.catalogue
            self._known[key] = Histories.of(users[warm], items[warm], self.users)
        return self._known[key]

    def pairs(self, parts: Sequence[str], but_not: Sequence[str] = ()) -> tuple[np.ndarray, np.ndarray]:
        """User (T,) and place of the item (T,) of each pair in the rows of some parts, once, ascending.

        but_not: pairs that these parts have, too, are left out.
        """
        keys = self._keys(parts)
        if but_not:
            keys = keys[~_among(keys, self._keys(but_not))]
        return keys // self._places, keys % self._places

    @property
    def _places(self) -> int:
        return self.catalogue + self.prepared.dataset.cardinalities[self.item_column]

    def _keys(self, parts: Sequence[str]) -> np.ndarray:
        """user · places + place, of each row of some parts: each once, ascending."""
        prepared, found = self.prepared, []
        wanted = [PARTS.index(part) for part in parts]
        if prepared.split.shared and "select" in parts:
            wanted.append(PARTS.index("search"))
        local, codes = prepared.vocabulary.local[self.item_column], prepared.dataset.codes
        place = np.where(local > 0, local.astype(np.int64) - 1, self.catalogue + np.arange(len(local)))
        for rows in row_slices(prepared.dataset.rows):
            mine = np.isin(prepared.split.part[rows], wanted)
            users = codes[self.user_column][rows][mine].astype(np.int64)
            found.append(users * self._places + place[codes[self.item_column][rows][mine]])
        keys = np.concatenate(found)
        keys.sort()  # np.unique hashes integers, which takes eighty times as long
        return keys[np.append(True, keys[1:] != keys[:-1])] if len(keys) else keys


def _among(keys: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(T,) bool: which keys are among others, both ascending."""
    if not len(others):
        return np.zeros(len(keys), dtype=bool)
    return others[np.minimum(np.searchsorted(others, keys), len(others) - 1)] == keys
