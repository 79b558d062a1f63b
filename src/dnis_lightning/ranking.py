"""Where wanted items come in the order of scores, and what that is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

MEASURES = ("recall", "hr", "mrr", "ndcg", "precision", "map")
_SCORES_AT_ONCE = 1 << 22


@dataclass
class Query:
    """Q users, the items to be ranked for each, and those that were to be found, T in all.

    users (Q,): the table row of each. items (M,): the table rows of the items, the same for all users; or (Q, M), of
    each, −1 where a user has fewer.
    seen (2, S): items that are no answer: the number of the user among the Q, and the place of the item among the M.
    wanted (2, T): the same of what is to be found; none of it is seen, nor twice there. relevant (Q,): how many
    there were to be found, with those that are not among the M.
    lots (Q,): a number of the user's own, which decides about equal scores. user_column: of the user in `Batch.ids`.
    """

    users: Tensor
    items: Tensor
    seen: Tensor
    wanted: Tensor
    relevant: Tensor
    lots: Tensor
    user_column: int = 0

    @property
    def size(self) -> int:
        """Q."""
        return len(self.users)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Query:
        """The same on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Query:
        """The same in page-locked memory."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, move: Callable[[Tensor], Tensor]) -> Query:
        moved = {name: move(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)  # type: ignore[arg-type]


def ranks(scores: Tensor, query: Query, most: int) -> Tensor:
    """(T,) the rank, from 1, of each wanted item; most + 1 where it is not among the first `most`.

    Items of equal scores are in a random order that is the user's own: a model that says the same of all items ranks
    them by chance. scores (Q, M); they change: what is seen, and what is no item, gets −∞. NaN counts as −∞.
    """
    scores.masked_fill_(scores.isnan(), -torch.inf)
    scores[query.seen[0], query.seen[1]] = -torch.inf
    if query.items.ndim == 2:
        scores.masked_fill_(query.items < 0, -torch.inf)
    owner, place = query.wanted
    own = scores[owner, place]
    first = scores.topk(min(most, scores.shape[1]), sorted=False).values
    at_once = max(_SCORES_AT_ONCE // max(scores.shape[1], 1), 1)
    rank = 1 + torch.cat(
        [
            (first[some] > better[:, None]).sum(1)
            for some, better in zip(owner.split(at_once), own.split(at_once), strict=True)
        ]
    )
    near = torch.nonzero(rank <= most).squeeze(1)
    for some in near.split(at_once):
        equal = scores[owner[some]] == own[some, None]
        tied = equal.sum(1) > 1
        if tied.any():
            lots = _lots(query.lots[owner[some][tied]], scores.shape[1])
            mine = lots.gather(1, place[some][tied, None])
            rank[some[tied]] += ((lots < mine) & equal[tied]).sum(1)
    return rank.clamp_(max=most + 1)


def _lots(numbers: Tensor, items: int) -> Tensor:
    """(Q, items) int64, as good as random: a lot for each item, from a number of each user's own."""
    mixed = numbers[:, None] * 0x5851F42D4C957F2D + torch.arange(1, items + 1, device=numbers.device)
    for factor in (0x2545F4914F6CDD1D, 0x369DEA0F31A53F85):
        mixed = (mixed ^ (mixed >> 29)) * factor
    return mixed ^ (mixed >> 32)


def each_at(rank: Tensor, owner: Tensor, relevant: Tensor, tops: Sequence[int]) -> dict[str, Tensor]:
    """(Q,) recall, hr, mrr, ndcg, precision and map of each user at each k of `tops`, float64, as `recall@10`.

    rank (T,), owner (T,): of each wanted item, its user among the Q. relevant (Q,): how many each user wants, at least
    one. With R relevant items of which those at the ranks r_1 < r_2 < … ≤ k are found, n of them: recall n / R; hr 1 if
    n > 0; mrr 1 / r_1 (Voorhees 1999); ndcg Σ_i 1 / log₂(r_i + 1) over its largest value (Järvelin and Kekäläinen 2002,
    with gains of 0 and 1); precision n / k; map Σ_i (i / r_i) / min(R, k), the average precision cut off at k.
    """
    owner, rank = _in_order(owner, rank)
    users, many = len(relevant), relevant.double()
    found: dict[str, Tensor] = {}
    number = 1.0 + torch.arange(len(owner), device=owner.device) - torch.searchsorted(owner, owner)
    for k in tops:
        hit = (rank <= k).double()

        def by_user(values: Tensor, hit: Tensor = hit) -> Tensor:
            return torch.zeros(users, dtype=torch.float64, device=owner.device).index_add_(0, owner, values * hit)

        hits = by_user(torch.ones_like(hit))
        ideal = torch.log2(torch.arange(2, k + 2, device=owner.device).double()).reciprocal().cumsum(0)
        within = relevant.clamp(max=k).long()
        each = {
            "recall": hits / many,
            "hr": hits.clamp(max=1),
            "mrr": by_user((number == 1) / rank.double()),
            "ndcg": by_user(torch.log2(rank.double() + 1).reciprocal()) / ideal[within - 1],
            "precision": hits / k,
            "map": by_user(number / rank.double()) / within,
        }
        found |= {f"{name}@{k}": values for name, values in each.items()}
    return found


def _in_order(owner: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
    """By user, and by rank within a user."""
    order = torch.argsort(rank, stable=True)
    order = order[torch.argsort(owner[order], stable=True)]
    return owner[order], rank[order]


def names_at(tops: Sequence[int]) -> list[str]:
    """The names of what `each_at` gives."""
    return [f"{name}@{k}" for k in tops for name in MEASURES]
