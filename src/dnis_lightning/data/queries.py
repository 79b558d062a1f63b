"""The users of a part, with what is to be found for each: what top-k recommendation is measured by."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from dnis_lightning.data.candidates import Candidates
from dnis_lightning.data.interactions import Histories, Interactions
from dnis_lightning.ranking import Query

_SCORES_AT_ONCE = 1 << 23


class Queries:
    """An iterable of queries: all users with a row in a part, some at a time, of which rank r has every `world`-th.

    To be found are the items that a user has in the part, but none that the user had before: in the parts that come
    before it, train, search and, for test, select, which are no answers either. Items are the whole catalogue, or
    those of `candidates`, whose users and positives must be those of the part.
    A cold item counts among what is to be found, and cannot be; among candidates it comes behind all others.

    told: how many users are asked for, how many items are to be found, and how many of these are cold.
    """

    def __init__(
        self,
        interactions: Interactions,
        part: str,
        *,
        candidates: Candidates | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.interactions, self.part, self.candidates = interactions, part, candidates
        before = _before(part, interactions.prepared.split.shared)
        self._seen = interactions.known(before)
        users, items = interactions.pairs([part], but_not=before)
        warm = items < interactions.catalogue
        self._wanted = Histories.of(users[warm], items[warm], interactions.users)
        self._relevant = np.bincount(users, minlength=interactions.users)
        asked = np.flatnonzero(self._relevant) if candidates is None else np.arange(len(candidates.users))
        self.told = {"users": len(asked), "items": len(items), "cold": int((~warm).sum())}
        self._asked = asked[rank::world]

    def __len__(self) -> int:
        return -(-len(self._asked) // self._at_once)

    def __iter__(self) -> Iterator[Query]:
        for start in range(0, len(self._asked), self._at_once):
            some = self._asked[start : start + self._at_once]
            yield self._query(some) if self.candidates is None else self._among(some, self.candidates)

    @property
    def items(self) -> int:
        """M, the items among which a user's are to be found."""
        return self.interactions.catalogue if self.candidates is None else self.candidates.negatives.shape[1] + 1

    @property
    def _at_once(self) -> int:
        return max(_SCORES_AT_ONCE // max(self.items, 1), 1)

    def _query(self, users: np.ndarray) -> Query:
        known = self.interactions
        items = known.first_item_row + np.arange(known.catalogue)
        seen, wanted = self._seen.of_users(users), self._wanted.of_users(users)
        relevant = self._relevant[users]
        return self._made(known.user_rows(users), items, np.stack(seen), np.stack(wanted), relevant, users)

    def _among(self, places: np.ndarray, given: Candidates) -> Query:
        """The positive comes first among the items of each user; if it is cold, it cannot be found."""
        known, users = self.interactions, given.users[places]
        items = known.item_rows(np.column_stack([given.positives[places], given.negatives[places]]))
        nothing, ones = np.zeros((2, 0), dtype=np.int64), np.ones(len(users), dtype=np.int64)
        warm = np.flatnonzero(items[:, 0] >= 0)
        return self._made(known.user_rows(users), items, nothing, np.stack([warm, np.zeros_like(warm)]), ones, users)

    def _made(self, *arrays: np.ndarray) -> Query:
        rows, items, seen, wanted, relevant, lots = (torch.from_numpy(array.astype(np.int64)) for array in arrays)
        return Query(rows, items, seen, wanted, relevant, lots, self.interactions.user_column)


def _before(part: str, shared: bool) -> list[str]:
    """The parts that are known when this one is asked for."""
    if part == "select" and shared:
        return ["train"]
    return {"search": ["train"], "select": ["train", "search"], "test": ["train", "search", "select"]}[part]
