"""Users, items, negatives and queries, on small data of which everything is known."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dnis_lightning.data.candidates import read_candidates
from dnis_lightning.data.interactions import Histories, Interactions
from dnis_lightning.data.liked import Liked
from dnis_lightning.data.loader import Loader
from dnis_lightning.data.negatives import Feedback, Negatives
from dnis_lightning.data.prepare import Prepared, prepare
from dnis_lightning.data.queries import Queries
from dnis_lightning.data.source import PARTS
from dnis_lightning.data.split import Split
from dnis_lightning.data.store import encode
from dnis_lightning.data.vocabulary import VocabularyOptions, build_vocabulary
from dnis_lightning.errors import ConfigError, DataError
from tests.data.conftest import Table

USERS, ITEMS, ROWS, COLD = 40, 25, 600, -1


def interactions_table(*, user_first: bool = True, seed: int = 0) -> Table:
    """Users and items, each pair once, in a random order of time; some items are had far more often than others."""
    rng = np.random.default_rng(seed)
    chance = np.repeat(1 / np.arange(1, ITEMS + 1)[None], USERS, axis=0).ravel()
    pairs = rng.choice(USERS * ITEMS, ROWS, replace=False, p=chance / chance.sum())
    columns = {"u": pairs // ITEMS + 100, "i": pairs % ITEMS + 500}
    columns = columns if user_first else dict(reversed(columns.items()))
    return Table(columns, np.ones(ROWS, np.float32), rng.permutation(ROWS), user_field="u")


def made(folder: Path, source: Table | None = None, **options: Any) -> Prepared:
    return prepare(source or interactions_table(), cache=folder, with_user=True, **options)


def pairs_of(prepared: Prepared, *parts: str) -> set[tuple[int, int]]:
    """Raw codes of user and item of the rows of some parts."""
    mine = np.isin(prepared.split.part, [PARTS.index(part) for part in parts])
    known = Interactions.of(prepared)
    codes = [prepared.dataset.codes[column][mine].tolist() for column in (known.user_column, known.item_column)]
    return set(zip(*codes, strict=True))


def place_of(prepared: Prepared, code: int) -> int:
    """The place in the catalogue of an item by its raw code."""
    return int(prepared.vocabulary.local[Interactions.of(prepared).item_column][code]) - 1


@pytest.mark.parametrize("split", ["three_way", "leave_one_out", "time"])
def test_a_history_is_what_the_rows_say(split: Any, tmp_path: Path) -> None:
    prepared = made(tmp_path, split=split)
    found = Interactions.of(prepared).known(["train", "search"])
    expected: list[set[int]] = [set() for _ in range(USERS)]
    for user, item in pairs_of(prepared, "train", "search"):
        expected[user] |= {place_of(prepared, item)} - {COLD}
    for user in range(USERS):
        own = found.items[found.starts[user] : found.starts[user + 1]].tolist()
        assert own == sorted(expected[user])


def test_the_most_frequent_item_has_the_first_place(tmp_path: Path) -> None:
    known = Interactions.of(made(tmp_path))
    assert known.frequency.tolist() == sorted(known.frequency.tolist(), reverse=True)
    assert known.catalogue == (known.frequency > 0).sum() == len(known.frequency)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_negatives_are_drawn_by_their_weights_and_never_from_the_history(power: float) -> None:
    rng = np.random.default_rng(1)
    had = rng.random((USERS, ITEMS)) < 0.3
    had[3], had[4] = False, True
    had[4, [7, 20]] = False
    users, items = np.nonzero(had)
    frequency = rng.integers(1, 100, ITEMS)
    negatives = Negatives(Histories.of(users, items, USERS), frequency, power)
    drawn = np.zeros((USERS, ITEMS))
    asked = np.repeat(np.arange(USERS), 5000)
    np.add.at(drawn, (np.repeat(asked, 2), negatives.draw(asked, rng.random((len(asked), 2))).ravel()), 1)
    assert not drawn[had].any()
    weights = np.where(had, 0, frequency.astype(float) ** power)
    chance = weights / weights.sum(1, keepdims=True)
    spread = np.sqrt(10_000 * chance * (1 - chance))
    assert (np.abs(drawn - 10_000 * chance) <= 5 * spread + 1).all()


def test_whoever_has_had_everything_is_given_anything() -> None:
    negatives = Negatives(Histories.of(np.zeros(4, dtype=int), np.arange(4), 2), np.ones(4))
    chance = np.linspace(0, 0.999, 8).reshape(2, 4)
    assert negatives.draw(np.array([0, 1]), chance).tolist() == [[0, 0, 1, 1], [2, 2, 3, 3]]


def test_chance_next_to_one_is_the_last_item() -> None:
    negatives = Negatives(Histories.of(np.zeros(2, dtype=int), np.array([2, 3]), 1), np.ones(4))
    assert negatives.draw(np.array([0]), np.array([[0.0, np.nextafter(1, 0)]])).tolist() == [[0, 1]]


def loader(prepared: Prepared, *parts: str, count: int = 3, power: float = 0.0, **options: Any) -> Loader:
    feedback = Feedback(Interactions.of(prepared), count, power)
    files = [prepared.parts[part] for part in parts]
    return Loader(files, batch_size=32, shuffle=True, seed=5, negatives=feedback.negatives(parts), **options)


@pytest.mark.parametrize("user_first", [True, False])
def test_each_row_is_followed_by_items_that_its_user_did_not_have(user_first: bool, tmp_path: Path) -> None:
    prepared = made(tmp_path, interactions_table(user_first=user_first))
    known, batches = Interactions.of(prepared), list(loader(prepared, "train"))
    assert known.user_column == (0 if user_first else 1)
    history = known.known(["train"])
    rows = 0
    for batch in batches:
        ids, label = batch.ids.view(-1, 4, 2), batch.label.view(-1, 4)
        assert label.tolist() == [[1, 0, 0, 0]] * len(label)
        assert batch.total == 4 * len(label)
        users, items = ids[:, :, known.user_column], ids[:, :, known.item_column] - known.first_item_row
        assert (users == users[:, :1]).all()
        for user, (item, *others) in zip(users[:, 0].tolist(), items.tolist(), strict=True):
            code = int(prepared.vocabulary.code_of[user])
            own = history.items[history.starts[code] : history.starts[code + 1]].tolist()
            assert item in own
            assert not set(others) & set(own)
            assert all(0 <= other < known.catalogue for other in others)
        rows += len(label)
    assert rows == prepared.rows["train"]


def test_held_out_rows_get_negatives_from_outside_both_histories(tmp_path: Path) -> None:
    prepared = made(tmp_path, split="leave_one_out")
    known = Interactions.of(prepared)
    had = {(user, place_of(prepared, item)) for user, item in pairs_of(prepared, "train", "search")}
    for _ in range(3):
        for batch in loader(prepared, "search", count=8):
            for row, label in zip(batch.ids.tolist(), batch.label.tolist(), strict=True):
                pair = int(prepared.vocabulary.code_of[row[0]]), row[1] - known.first_item_row
                assert label == 1 or pair not in had


def test_negatives_are_new_in_each_pass_and_the_same_for_a_seed(tmp_path: Path) -> None:
    prepared = made(tmp_path)

    def drawn(batches: Loader) -> dict[tuple[int, ...], list[list[int]]]:
        """The negatives of each row."""
        each = torch.cat([batch.ids.view(-1, 4, 2) for batch in batches])
        return {tuple(row[0].tolist()): row[1:].tolist() for row in each}

    first, again = (loader(prepared, "train") for _ in range(2))
    passes = [drawn(first) for _ in range(2)]
    same = sum(passes[0][row] == negatives for row, negatives in passes[1].items())
    assert same < len(passes[0]) / 10
    assert all(one == drawn(again) for one in passes)


def test_a_resumed_loader_draws_what_the_other_would_have_drawn(tmp_path: Path) -> None:
    prepared = made(tmp_path)
    whole = [batch.ids for batch in loader(prepared, "train")]
    cut_short, resumed = loader(prepared, "train"), loader(prepared, "train")
    for _, _batch in zip(range(4), cut_short, strict=False):
        pass
    resumed.load_state_dict(json.loads(json.dumps(cut_short.state_dict())))
    assert all(torch.equal(one, batch.ids) for one, batch in zip(whole[4:], resumed, strict=True))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_have_the_rows_and_negatives_of_one_process(world: int, tmp_path: Path) -> None:
    prepared = made(tmp_path)
    alone = list(loader(prepared, "train", "search"))
    ranks = [list(loader(prepared, "train", "search", rank=rank, world=world)) for rank in range(world)]
    for whole, *shares in zip(alone, *ranks, strict=True):
        together = torch.empty_like(whole.ids).view(-1, 4, 2)
        for rank, share in enumerate(shares):
            together[rank::world] = share.ids.view(-1, 4, 2)
            assert share.total == whole.global_size
        assert torch.equal(together.view(-1, 2), whole.ids)


def test_users_who_share_a_row_of_the_table_keep_their_own_histories(tmp_path: Path) -> None:
    """With min_count most users have no row of their own; their negatives are still none of their items."""
    source = interactions_table()
    users, items = np.append(source.columns["u"], 999), np.append(source.columns["i"], 500)
    source = Table({"u": users, "i": items}, np.ones(ROWS + 1, np.float32), np.arange(ROWS + 1), user_field="u")
    prepared = made(tmp_path, source, options=VocabularyOptions(min_counts={"u": 14}))
    known = Interactions.of(prepared)
    assert (prepared.vocabulary.local[0] == 0).sum() > 3
    history, drawn = known.known(["train"]), Feedback(known, 5).negatives(["train"])
    for user in range(known.users):
        own = history.items[history.starts[user] : history.starts[user + 1]]
        found = drawn.negatives.draw(np.full(200, user), np.random.default_rng(0).random((200, 5)))
        assert not np.isin(found, own).any()


# queries


@pytest.mark.parametrize(("part", "before"), [("select", ("train", "search")), ("test", ("train", "search", "select"))])
@pytest.mark.parametrize("split", ["three_way", "leave_one_out", "time"])
def test_queries_ask_for_what_is_new_in_a_part(part: str, before: tuple[str, ...], split: Any, tmp_path: Path) -> None:
    prepared = made(tmp_path, split=split)
    known, asked = Interactions.of(prepared), {}
    for query in Queries(known, part):
        for number, user in enumerate(query.lots.tolist()):
            wanted = set(query.wanted[1][query.wanted[0] == number].tolist())
            seen = set(query.seen[1][query.seen[0] == number].tolist())
            asked[user] = wanted, seen, int(query.relevant[number]), int(query.users[number])
    for user in range(known.users):
        new = {item for one, item in pairs_of(prepared, part) if one == user}
        old = {item for one, item in pairs_of(prepared, *before) if one == user}
        if not new:
            assert user not in asked
            continue
        places = {place_of(prepared, item) for item in new} - {COLD}
        seen = {place_of(prepared, item) for item in old} - {COLD}
        assert asked[user] == (places, seen, len(new), int(known.user_rows(np.array([user]))[0]))


def test_what_a_user_had_before_is_not_asked_for_again(tmp_path: Path) -> None:
    users, items = np.repeat([1, 2], 8), np.array([1, 2, 3, 4, 5, 6, 7, 1, 1, 2, 3, 4, 5, 6, 7, 8])
    source = Table({"u": users, "i": items}, np.ones(16, np.float32), np.arange(16), user_field="u")
    known = Interactions.of(made(tmp_path, source, split="leave_one_out"))
    (query,) = Queries(known, "test")
    assert query.lots.tolist() == [1]  # the first user's last row is a film seen before


def test_a_cold_item_counts_and_cannot_be_found(tmp_path: Path) -> None:
    users, items = np.repeat([1, 2], 6), np.array([1, 2, 3, 4, 5, 77, 1, 2, 3, 4, 5, 1])
    items[11] = 3
    items[8] = 6
    source = Table({"u": users, "i": items}, np.ones(12, np.float32), np.arange(12), user_field="u")
    (query,) = Queries(Interactions.of(made(tmp_path, source, split="leave_one_out")), "test")
    assert query.relevant.tolist() == [1, 1]
    assert query.wanted[0].tolist() == [1]


def test_ranks_share_the_users(tmp_path: Path) -> None:
    known = Interactions.of(made(tmp_path))
    whole = [user for query in Queries(known, "test") for user in query.lots.tolist()]
    shares = [
        [user for query in Queries(known, "test", rank=rank, world=3) for user in query.lots.tolist()]
        for rank in range(3)
    ]
    assert sorted(user for share in shares for user in share) == sorted(whole)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


# a given test


def write_candidates(folder: Path, lines: list[str]) -> Path:
    path = folder / "given.csv"
    path.write_text("\n".join(["user,positive,a,b,c", *lines]) + "\n")
    return path


def some_pairs(count: int) -> list[tuple[int, int]]:
    """Raw ids of users and of an item that each had, not the last one."""
    source = interactions_table()
    users, items = source.columns["u"], source.columns["i"]
    assert source.time is not None
    found = []
    for user in np.unique(users)[:count]:
        mine = np.flatnonzero(users == user)
        found.append((int(user), int(items[mine[np.argsort(source.time[mine])][0]])))
    return found


def test_given_positives_are_the_test_and_no_other_row_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pairs = some_pairs(10)
    lines = [f"{user},{item},501,{item},503" for user, item in pairs]
    with caplog.at_level(logging.INFO):
        prepared = made(tmp_path, split="leave_one_out", candidates=str(write_candidates(tmp_path, lines)))
    assert "of 10 users the positive is among the negatives, too, and is taken out there" in caplog.text
    users, items = (prepared.dataset.raw_ids(field) for field in ("u", "i"))
    assert {(int(users[u]), int(items[i])) for u, i in pairs_of(prepared, "test")} == set(pairs)
    assert len(pairs_of(prepared, "select")) == len(pairs_of(prepared, "search")) == USERS
    again = made(tmp_path, split="leave_one_out", split_seed=1, candidates=str(tmp_path / "given.csv"))
    assert pairs_of(again, "test") == pairs_of(prepared, "test")
    assert len(pairs_of(again, "select") & pairs_of(prepared, "select")) < USERS / 2, "drawn at random"

    known = Interactions.of(prepared)
    queries = Queries(known, "test", candidates=prepared.candidates)
    (query,) = queries
    assert queries.items == 4
    for row, user, (user_id, item_id) in zip(query.items.tolist(), query.users.tolist(), pairs, strict=True):
        raw = [int(items[int(prepared.vocabulary.code_of[one])]) for one in row if one >= 0]
        taken_out = 1 + (item_id in (501, 503))
        assert raw[0] == item_id
        assert len(raw) == 4 - taken_out
        assert int(users[int(prepared.vocabulary.code_of[user])]) == user_id


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (
            ["{u},{i},501,502,503", "101,9999,501,502,503"],
            r"given\.csv: i '9999' in row 2 is not in table; is it a raw id\?",
        ),
        (["7,501,502,503,504"], r"given\.csv: u '7' in row 1 is not in table"),
        (["{u},{other},501,502,503"], r"given\.csv: table has no row of the user and the positive in its row 1"),
        ([",{i},501,502,503"], r"given\.csv: no user in row 1"),
        (["{u},,501,502,503"], r"given\.csv: no positive in row 1"),
        (["{u},{i},501,502,503", "{u},{i},501,502,503"], "a user has several lines, expected one each"),
        (["{u},{i}"], "it cannot be read"),
        ([], "0 rows; a CSV file with a header: user, positive, negative"),
    ],
)
def test_a_bad_file_of_candidates_is_named(lines: list[str], says: str, tmp_path: Path) -> None:
    (user, item), had = some_pairs(1)[0], interactions_table().columns
    other = next(int(one) for one in np.unique(had["i"]) if one not in had["i"][had["u"] == user])
    told = [line.format(u=user, i=item, other=other) for line in lines]
    with pytest.raises(DataError, match=says):
        made(tmp_path, split="leave_one_out", candidates=str(write_candidates(tmp_path, told)))


def test_a_file_of_candidates_without_a_header_is_named(tmp_path: Path) -> None:
    path = tmp_path / "given.csv"
    path.write_text("\n".join(f"{user},{item},501,502" for user, item in some_pairs(3)))
    with pytest.raises(DataError, match="its first line has a user and an item, expected a header"):
        made(tmp_path, split="leave_one_out", candidates=str(path))


@pytest.mark.parametrize("start", ["\ufeffuser,positive,neg,neg\r\n", '"user","positive","a","b"\n'])
def test_headers_may_be_quoted_or_start_with_a_mark_and_names_may_repeat(start: str, tmp_path: Path) -> None:
    ((user, item),) = some_pairs(1)
    (tmp_path / "given.csv").write_text(f'{start}{user},"{item}",501,502\n', encoding="utf-8")
    found = read_candidates(tmp_path / "given.csv", made(tmp_path).dataset, "u", "i")
    assert found.negatives.shape == (1, 2)


def test_another_file_of_the_same_users_is_another_test(tmp_path: Path) -> None:
    source = interactions_table()
    ((user, item),) = some_pairs(1)
    other = int(
        source.columns["i"][np.flatnonzero(source.columns["u"] == user)][
            source.columns["i"][source.columns["u"] == user] != item
        ][0]
    )
    tests = []
    for positive in (item, other):
        path = write_candidates(tmp_path, [f"{user},{positive},501,502,503"])
        prepared = made(tmp_path, split="leave_one_out", candidates=str(path))
        tests.append(pairs_of(prepared, "test"))
    assert tests[0] != tests[1]


def test_a_positive_that_was_had_twice_is_nowhere_in_train(tmp_path: Path) -> None:
    users, items = np.repeat([1, 2], 8), np.array([1, 2, 3, 1, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8])
    source = Table({"u": users, "i": items}, np.ones(16, np.float32), np.arange(16), user_field="u")
    path = write_candidates(tmp_path, ["1,1,2,3,4"])
    prepared = made(tmp_path, source, split="leave_one_out", candidates=str(path))
    assert not pairs_of(prepared, "test") & pairs_of(prepared, "train", "search", "select")
    assert prepared.rows["test"] == 2


def test_a_user_with_next_to_nothing_besides_the_positive_moves_no_row_of_another(tmp_path: Path) -> None:
    users, items = np.repeat([1, 2, 3], 6), np.array([1, 1, 1, 1, 1, 9, *range(1, 7), *range(1, 7)])
    source = Table({"u": users, "i": items}, np.ones(18, np.float32), np.arange(18), user_field="u")
    path = write_candidates(tmp_path, ["1,1,2,3,4", "3,6,1,2,3"])
    prepared = made(tmp_path, source, split="leave_one_out", candidates=str(path))
    assert prepared.split.part[:6].tolist() == [3, 3, 3, 3, 3, 0]
    assert prepared.split.part[-1] == 3
    assert sorted(prepared.split.part[6:12].tolist()) == [0, 0, 0, 0, 1, 2]
    assert sorted(prepared.split.part[12:].tolist()) == [0, 0, 0, 1, 2, 3]


def test_a_negative_given_twice_counts_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (one, item), (two, other) = some_pairs(2)
    lines = [f"{one},{item},502,501,502,502,,", f"{two},{other},501,502,503,504,,"]
    path = tmp_path / "given.csv"
    path.write_text("\n".join(["user,positive,a,b,c,d,e,f", *lines]) + "\n")
    with caplog.at_level(logging.INFO):
        dataset = made(tmp_path).dataset
        negatives = read_candidates(path, dataset, "u", "i").negatives
    assert "2 negatives that a user has twice are taken out" in caplog.text
    raw = dataset.raw_ids("i")
    named = [[str(raw[code]) if code >= 0 else "" for code in row] for row in negatives.tolist()]
    assert named == [["502", "501", "", "", "", ""], ["501", "502", "503", "504", "", ""]]


def test_other_candidates_are_another_fingerprint(tmp_path: Path) -> None:
    ((user, item),) = some_pairs(1)
    marks = set()
    for negatives in ("501,502,503", "501,502,504"):
        path = write_candidates(tmp_path, [f"{user},{item},{negatives}"])
        marks |= {made(tmp_path, split="leave_one_out", candidates=str(path)).fingerprint for _ in range(2)}
    assert len(marks) == 2
    assert made(tmp_path).fingerprint not in marks


def test_cold_candidates_come_behind_all_others_and_a_cold_positive_is_missed(tmp_path: Path) -> None:
    users, items = np.repeat([1, 2], 8), np.array([1, 2, 3, 4, 5, 6, 7, 99, 1, 2, 3, 4, 5, 6, 7, 8])
    source = Table({"u": users, "i": items}, np.ones(16, np.float32), np.arange(16), user_field="u")
    path = write_candidates(tmp_path, ["1,99,2,3,4", "2,8,99,3,4"])
    prepared = made(tmp_path, source, split="leave_one_out", candidates=str(path))
    (query,) = Queries(Interactions.of(prepared), "test", candidates=prepared.candidates)
    assert (query.items[0] < 0).tolist() == [True, False, False, False]
    assert query.items[1, 0] < 0, "item 8 is in no training row either"
    assert query.items[1, 1] < 0
    assert query.relevant.tolist() == [1, 1]
    assert query.wanted.numel() == 0


def test_cold_items_are_new_once_and_only_if_they_are(tmp_path: Path) -> None:
    """With min_count, items without a row of their own are still known apart."""
    users, items = np.repeat([1, 2], 9), np.array([1, 2, 3, 4, 77, 5, 6, 7, 77, 1, 2, 3, 4, 5, 6, 7, 1, 78])
    source = Table({"u": users, "i": items}, np.ones(18, np.float32), np.arange(18), user_field="u")
    prepared = made(tmp_path, source, split="leave_one_out", options=VocabularyOptions(min_counts={"i": 2}))
    queries = Queries(Interactions.of(prepared), "test")
    (query,) = queries
    assert query.lots.tolist() == [1], "the first user has had 77"
    assert query.relevant.tolist() == [1]
    assert queries.told == {"users": 1, "items": 1, "cold": 1}


def test_rows_without_a_user_or_an_item_are_refused(tmp_path: Path) -> None:
    items = np.array(["x", "", "y", "z"], dtype=object)
    source = Table({"u": np.array([1, 1, 2, 2]), "i": items}, np.ones(4, np.float32), np.arange(4), user_field="u")
    with pytest.raises(DataError, match="table has rows without 'i'; leave them out"):
        Interactions.of(encoded_only(source, tmp_path))


def encoded_only(source: Table, folder: Path) -> Prepared:
    dataset = encode(source, folder)
    part = np.zeros(dataset.rows, dtype=np.uint8)
    vocabulary = build_vocabulary(dataset, part == 0, VocabularyOptions())
    return Prepared(dataset, Split(part, False), vocabulary, {}, 1.0)


def test_candidates_want_leave_one_out_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"data\.candidates: its positives are test rows of data\.split=leave_one_out"
    ):
        made(tmp_path, candidates="nowhere.csv")
    with pytest.raises(DataError, match=r"data\.candidates=.*nowhere\.csv: it cannot be read"):
        made(tmp_path, split="leave_one_out", candidates=str(tmp_path / "nowhere.csv"))
    (tmp_path / "open.csv").write_text('"' + "x" * 200_000)
    with pytest.raises(DataError, match=r"data\.candidates=.*open\.csv: it cannot be read"):
        made(tmp_path, split="leave_one_out", candidates=str(tmp_path / "open.csv"))


def test_only_users_and_items_can_be_interactions(tmp_path: Path, table: Table) -> None:
    with pytest.raises(ConfigError, match=r"two categorical fields, user and item, table has a \(numeric\), b"):
        Interactions.of(prepare(table, cache=tmp_path))
    source = interactions_table()
    source.user_field = None
    with pytest.raises(ConfigError, match=r"which of u and i is the user\? Name it with data\.user="):
        Interactions.of(prepare(source, cache=tmp_path))


@pytest.mark.data
def test_the_protocol_of_ncf_is_read_as_it_is(
    real_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from dnis_lightning.data.movielens import MovieLens

    path = real_data / "ncf" / "ncf_test_negatives.csv"
    with caplog.at_level(logging.INFO):
        prepared = prepare(
            MovieLens("1m", str(real_data)), cache=tmp_path, split="leave_one_out", candidates=str(path), with_user=True
        )
    assert "of 156 users the positive is among the negatives, too" in caplog.text
    assert prepared.rows == {"train": 1_000_209 - 3 * 6040, "search": 6040, "select": 6040, "test": 6040}
    given = prepared.candidates
    assert given is not None
    assert given.negatives.shape == (6040, 99)
    assert (given.negatives >= 0).sum() == 6040 * 99 - 156
    lines = (real_data / "ncf" / "ncf_test.csv").read_text().splitlines()[1:]
    expected = [line.split(",")[:2] for line in lines]
    users, items = (prepared.dataset.raw_ids(field) for field in ("user", "item"))
    pairs = zip(given.users.tolist(), given.positives.tolist(), strict=True)
    assert [[users[user], items[item]] for user, item in pairs] == expected
    assert pairs_of(prepared, "test") == set(zip(given.users.tolist(), given.positives.tolist(), strict=True))


def test_reading_candidates_keeps_their_order(tmp_path: Path) -> None:
    pairs = some_pairs(5)[::-1]
    prepared = made(tmp_path)
    path = write_candidates(tmp_path, [f"{user},{item},500,,502" for user, item in pairs])
    found = read_candidates(path, prepared.dataset, "u", "i")
    users, items = (prepared.dataset.raw_ids(field) for field in ("u", "i"))
    assert [(int(users[u]), int(items[i])) for u, i in zip(found.users, found.positives, strict=True)] == pairs
    assert (found.negatives[:, 1] == -1).all()


def test_rows_of_small_labels_are_as_if_they_were_not_there(tmp_path: Path) -> None:
    source = interactions_table()
    source.label = np.random.default_rng(2).integers(1, 6, ROWS).astype(np.float32)
    prepared = made(tmp_path, Liked(source, 4.0), split="leave_one_out")
    liked = source.label >= 4
    users, items = (prepared.dataset.raw_ids(field) for field in ("u", "i"))
    found = {(int(users[u]), int(items[i])) for u, i in pairs_of(prepared, *PARTS)}
    assert found == set(zip(source.columns["u"][liked].tolist(), source.columns["i"][liked].tolist(), strict=True))
    assert prepared.dataset.rows == liked.sum()
    assert (prepared.dataset.label >= 4).all()
    assert Liked(source, 4.0).identity() != Liked(source, 3.0).identity()
    with pytest.raises(DataError, match=r"data\.least_label=9: no row of table has such a label; take a smaller one"):
        made(tmp_path, Liked(source, 9.0))
