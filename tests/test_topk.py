"""Top-k recommendation from the command line: a log of who had what, on one process and on two."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from tests.command import dnis, result_of

SHORT = (
    "data=table",
    "data.path=log.csv",
    "data.task=topk",
    "data.label=null",
    "data.fields=[who,what]",
    "data.user=who",
    "data.time=when",
    "data.split=leave_one_out",
    "data.top=[1,5]",
    "data.negatives=2",
    "data.batch_size=64",
    "search.base_dim=4",
    "search.blocks=3",
    "search.rates=[2]",
    "search.search_epochs=2",
    "search.least_epochs=1",
    "prune.finetune_epochs=1",
    "trainer.max_epochs=3",
    "trainer.threads=1",
)
METRICS = {f"{name}@{k}" for name in ("recall", "hr", "mrr", "ndcg", "precision", "map") for k in (1, 5)}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """60 users had 10 of 30 items each, by their taste; the first 20 of them are a test that is given."""
    rng = np.random.default_rng(0)
    affinity = rng.normal(size=(60, 2)) @ rng.normal(size=(2, 30)) * 2 + rng.gumbel(size=(60, 30))
    had = np.argsort(-affinity, axis=1)[:, :10]
    lines = [f"u{user},i{item},{when}" for user, items in enumerate(had) for when, item in enumerate(items)]
    (tmp_path / "log.csv").write_text("\n".join(["who,what,when", *lines]) + "\n")
    others = np.argsort(-affinity, axis=1)[:20, 10:15]
    given = [f"u{user},i{had[user, 9]}," + ",".join(f"i{item}" for item in row) for user, row in enumerate(others)]
    (tmp_path / "given.csv").write_text("\n".join(["who,what,a,b,c,d,e", *given]) + "\n")
    return tmp_path


def test_a_search_ends_with_metrics_of_both_kinds_of_test(log: Path) -> None:
    folder, told = result_of(dnis(log, *SHORT, "model=neumf", "data.candidates=given.csv", "data.negatives_power=0.5"))
    assert (told["task"], told["split"]) == ("topk", "leave_one_out")
    assert told["rows"] == {"train": 60 * 10 - 60 * 2 - 20, "search": 60, "select": 60, "test": 20}
    for model in (told["unpruned"], *told["pruned"]):
        names = {f"select/{name}" for name in METRICS} | {f"test/{name}" for name in METRICS}
        assert set(model["metrics"]) == names | {f"test/{name}_of_6" for name in METRICS}
        assert all(0 <= value <= 1 for value in model["metrics"].values())
        assert model["metrics"]["test/hr@5_of_6"] > 0.6  # one of six: nearly all
    rows = (folder / "metrics.csv").read_text()
    assert "select/ndcg@5" in rows
    pictures = {"learning_curves.png", "gates.png", "search_health.png"}
    assert pictures <= {path.name for path in (folder / "figures").iterdir()}
    assert told["diagnostics"]["gap"] is None
    assert "search and select loss: none, select is measured in ndcg@5, which is no" in (folder / "run.log").read_text()


@pytest.mark.parametrize("loss", ["bce", "bpr"])
def test_taste_is_learned_by_either_loss(loss: str, log: Path) -> None:
    """Chance is 5 of the 22 items that a user has not had by then."""
    longer = [
        one
        for one in SHORT
        if not one.startswith(("search.search", "search.least", "search.rates", "prune", "trainer.max"))
    ]
    arguments = (
        *longer,
        "model=mf",
        "search=none",
        "trainer.max_epochs=60",
        "trainer.patience=10",
        "optimizer.lr=0.02",
    )
    folder, told = result_of(dnis(log, *arguments, f"data.loss={loss}"))
    assert told["unpruned"]["metrics"]["test/hr@5"] > 0.36
    with (folder / "metrics.csv").open() as file:
        curve = [float(row["select/ndcg@5"]) for row in csv.DictReader(file)]
    assert told["unpruned"]["metrics"]["select/ndcg@5"] == pytest.approx(max(curve), abs=1e-6), "of the best epoch"
    assert told["queries"]["test"] == {"users": 60, "items": 60, "cold": 0}


def test_two_ranks_end_where_one_ends(log: Path) -> None:
    arguments = (*SHORT, "model=gmf", "search.xi=0.05", "data.batch_size=50", "trainer.precision=64-true")
    arguments = (*arguments, "data.candidates=given.csv")
    _, alone = result_of(dnis(log, *arguments))
    _, together = result_of(dnis(log, *arguments, "trainer=ddp", "trainer.devices=2"))
    for single, several in zip(
        (alone["unpruned"], *alone["pruned"]), (together["unpruned"], *together["pruned"]), strict=True
    ):
        assert several["metrics"] == pytest.approx(single["metrics"], rel=1e-9)
    assert together["gates_per_block"] == pytest.approx(alone["gates_per_block"], rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("data.fields=[who,what,when]", "data.time=null", "data.split=three_way"), "it takes two categorical fields"),
        (("data.user=null", "data.split=three_way"), "data.task=topk: which of who and what is the user?"),
        (("data.candidates=none.csv",), "none.csv: it cannot be read"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_a_sentence(arguments: tuple[str, ...], says: str, log: Path) -> None:
    taken = {one.split("=")[0] for one in arguments}
    finished = dnis(log, *(one for one in SHORT if one.split("=")[0] not in taken), *arguments)
    assert finished.returncode == 1
    assert says in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not (log / "outputs").exists() or not list((log / "outputs").glob("*/*/result.json"))


def test_users_who_want_nothing_new_are_no_test(log: Path) -> None:
    """Everybody has one and the same item again and again."""
    lines = [f"u{user},i{user},{when}" for user in range(20) for when in range(6)]
    (log / "log.csv").write_text("\n".join(["who,what,when", *lines]) + "\n")
    finished = dnis(log, *SHORT)
    assert finished.returncode == 1
    assert "no user has an item in select that was not there before" in finished.stderr
