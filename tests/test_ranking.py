"""Ranks and their metrics against loops, definitions worked out by hand, and chance."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch

from dnis_lightning.ranking import Query, each_at, names_at, ranks
from dnis_lightning.tasks import RankingMetrics

TOPS = (1, 3, 10)


def drawn_query(rng: np.random.Generator, users: int, items: int, *, wanted: int, seen: int, cold: int = 0) -> Query:
    """Each user wants so many of the items, and has seen so many others; up to `cold` more are not among them."""
    drawn = np.argsort(rng.random((users, items)), axis=1)
    counts = rng.integers(1, wanted + 1, users)
    want = [(user, item) for user in range(users) for item in drawn[user, : counts[user]]]
    saw = [(user, item) for user in range(users) for item in drawn[user, wanted : wanted + seen]]
    relevant = counts + rng.integers(0, cold + 1, users)
    columns = [torch.from_numpy(np.array(pairs, dtype=np.int64).reshape(-1, 2).T) for pairs in (saw, want)]
    user_rows = torch.arange(users)
    return Query(user_rows, torch.arange(items), *columns, torch.from_numpy(relevant), user_rows * 7 + 3)


def by_loops(scores: np.ndarray, query: Query, tops: tuple[int, ...]) -> dict[str, float]:
    """The metrics' definitions, one user after the other; scores without ties."""
    sums: dict[str, float] = dict.fromkeys(names_at(tops), 0.0)
    for user in range(len(scores)):
        seen = {int(i) for u, i in query.seen.T if u == user}
        wanted = {int(i) for u, i in query.wanted.T if u == user}
        order = [item for item in sorted(range(scores.shape[1]), key=lambda i: -scores[user, i]) if item not in seen]
        relevant = int(query.relevant[user])
        for k in tops:
            found = [rank for rank, item in enumerate(order[:k], 1) if item in wanted]
            ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, relevant) + 1))
            sums[f"recall@{k}"] += len(found) / relevant
            sums[f"hr@{k}"] += bool(found)
            sums[f"mrr@{k}"] += 1 / found[0] if found else 0
            sums[f"ndcg@{k}"] += sum(1 / math.log2(rank + 1) for rank in found) / ideal
            sums[f"precision@{k}"] += len(found) / k
            sums[f"map@{k}"] += sum(number / rank for number, rank in enumerate(found, 1)) / min(k, relevant)
    return {name: total / len(scores) for name, total in sums.items()}


def add(metrics: RankingMetrics, scores: torch.Tensor, query: Query) -> None:
    broken = scores.isnan().any()
    metrics.update(ranks(scores, query, max(metrics.tops)), query, broken)


def measured(scores: np.ndarray, query: Query, tops: tuple[int, ...] = TOPS) -> dict[str, float]:
    metrics = RankingMetrics(tops)
    add(metrics, torch.from_numpy(scores).float(), query)
    return {name: float(value) for name, value in metrics.compute().items()}


@pytest.mark.parametrize(("wanted", "cold"), [(1, 0), (6, 0), (6, 4)])
def test_metrics_are_their_definitions(wanted: int, cold: int, rng: np.random.Generator) -> None:
    query = drawn_query(rng, 40, 25, wanted=wanted, seen=8, cold=cold)
    scores = rng.permutation(40 * 25).reshape(40, 25).astype(np.float32)
    assert measured(scores.copy(), query) == pytest.approx(by_loops(scores, query, TOPS), rel=1e-12)


def test_metrics_worked_out_by_hand() -> None:
    """Manning, Raghavan and Schütze's kind of example: of five relevant, those at ranks 1, 3 and 6 are found."""
    rank, owner = torch.tensor([6, 1, 3, 11, 11]), torch.zeros(5, dtype=torch.int64)
    found = {name: float(value) for name, value in each_at(rank, owner, torch.tensor([5]), [10]).items()}
    assert found["recall@10"] == pytest.approx(3 / 5)
    assert found["precision@10"] == pytest.approx(3 / 10)
    assert found["map@10"] == pytest.approx((1 / 1 + 2 / 3 + 3 / 6) / 5)
    assert found["mrr@10"] == found["hr@10"] == 1
    ideal = sum(1 / math.log2(place + 1) for place in range(1, 6))
    assert found["ndcg@10"] == pytest.approx((1 + 1 / 2 + 1 / math.log2(7)) / ideal)


def test_ranks_that_no_k_reaches_count_as_none(rng: np.random.Generator) -> None:
    query = drawn_query(rng, 30, 50, wanted=4, seen=10)
    scores = torch.from_numpy(rng.permutation(1500).reshape(30, 50)).float()
    all_of_them = ranks(scores.clone(), query, 50)
    assert ranks(scores.clone(), query, 5).tolist() == all_of_them.clamp(max=6).tolist()


def test_a_constant_model_scores_like_chance(rng: np.random.Generator) -> None:
    """Nothing is known of 90 of 100 items, of which one is wanted: HR@9 is 0.1, within four standard deviations."""
    users = 4000
    query = drawn_query(rng, users, 100, wanted=1, seen=10)
    found = measured(np.zeros((users, 100), dtype=np.float32), query, (1, 9))
    for k in (1, 9):
        chance = k / 90
        assert found[f"hr@{k}"] == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / users))


def test_items_of_equal_scores_have_all_places_in_turn() -> None:
    """Three items tie behind a better one; every user draws anew, and none of them is ahead."""
    users = 3000
    scores = torch.tensor([[5.0, 1, 1, 1, 0]]).repeat(users, 1)
    owner = torch.arange(users)
    for item in (1, 2, 3):
        nothing = torch.zeros((2, 0), dtype=torch.int64)
        wanted = torch.stack([owner, torch.full((users,), item)])
        query = Query(owner, torch.arange(5), nothing, wanted, torch.ones(users, dtype=torch.int64), owner)
        counts = torch.bincount(ranks(scores.clone(), query, 5), minlength=6)
        assert counts[[0, 1, 5]].tolist() == [0, 0, 0]
        assert all(abs(int(count) - 1000) < 4 * math.sqrt(users * 2 / 9) for count in counts[2:5])


def test_several_wanted_items_that_tie_share_the_places(rng: np.random.Generator) -> None:
    query = drawn_query(rng, 50, 12, wanted=6, seen=0)
    found = ranks(torch.zeros(50, 12), query, 12)
    for user in range(50):
        own = found[query.wanted[0] == user].tolist()
        assert len(set(own)) == len(own)
        assert set(own) <= set(range(1, 13))


def test_what_was_seen_is_no_answer() -> None:
    query = Query(*(torch.tensor(part) for part in ([0], [0, 1, 2], [[0], [0]], [[0], [1]], [1], [0])))
    assert ranks(torch.tensor([[9.0, 1, 0]]), query, 3).tolist() == [1]


def test_of_candidates_the_absent_ones_are_behind_all_others() -> None:
    items = torch.tensor([[4, 7, -1], [4, 8, 9]])
    nothing = torch.zeros((2, 0), dtype=torch.int64)
    query = Query(
        torch.tensor([0, 1]), items, nothing, torch.tensor([[0, 1], [0, 0]]), torch.ones(2).long(), items[:, 0]
    )
    assert ranks(torch.tensor([[1.0, 0, 5], [1, 0, 5]]), query, 3).tolist() == [1, 2]


def test_a_model_that_diverged_has_no_metrics(rng: np.random.Generator) -> None:
    query = drawn_query(rng, 3, 9, wanted=2, seen=1)
    scores = rng.normal(size=(3, 9)).astype(np.float32)
    scores[1, 4] = np.nan
    assert all(math.isnan(value) for value in measured(scores, query).values())


def test_parts_of_the_users_add_up(rng: np.random.Generator) -> None:
    query = drawn_query(rng, 30, 20, wanted=3, seen=2)
    scores = torch.from_numpy(rng.normal(size=(30, 20))).float()
    metrics = RankingMetrics(TOPS)
    for some in (range(11), range(11, 30)):
        mine = [torch.isin(pairs[0], torch.tensor(some)) for pairs in (query.seen, query.wanted)]
        shift = torch.tensor([[some[0]], [0]])
        seen, wanted = query.seen[:, mine[0]] - shift, query.wanted[:, mine[1]] - shift
        parts = query.users[some], query.items, seen, wanted, query.relevant[some], query.lots[some]
        add(metrics, scores[some].clone(), Query(*parts))
    together = {name: float(value) for name, value in metrics.compute().items()}
    assert together == pytest.approx(measured(scores.numpy().copy(), query), rel=1e-12)


def test_movielens_1m_takes_well_under_a_second(rng: np.random.Generator) -> None:
    users, items = 6040, 3706
    scores = torch.from_numpy(rng.normal(size=(users, items)).astype(np.float32))
    seen = torch.from_numpy(np.stack([rng.integers(0, users, 10**6), rng.integers(0, items // 2, 10**6)]))
    owner = torch.arange(users).repeat_interleave(16)
    wanted = torch.stack([owner, torch.from_numpy(rng.integers(items // 2, items, len(owner)))])
    query = Query(torch.arange(users), torch.arange(items), seen, wanted, torch.full((users,), 16), torch.arange(users))
    seconds, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for each other in busy loops, where the machine has other work
    for _ in range(3):
        metrics, fresh = RankingMetrics((1, 5, 10, 100)), scores.clone()
        started = time.process_time()
        add(metrics, fresh, query)
        metrics.compute()
        seconds.append(time.process_time() - started)
    torch.set_num_threads(threads)
    assert min(seconds) < 1
