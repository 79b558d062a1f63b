"""A run that starts from an earlier one: rows by raw id, whatever has come and gone since."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from dnis_lightning.blueprint import rebuild
from dnis_lightning.packed import PackedEmbedding
from tests.command import dnis, result_of

SHORT = (
    "data=table",
    "data.label=clicked",
    "data.task=ctr",
    "data.numeric=[price]",
    "data.multi=[tags]",
    "data.batch_size=256",
    "search.base_dim=4",
    "search.blocks=3",
    "trainer.max_epochs=2",
    "trainer.threads=1",
)
STANDING = ("optimizer.lr=1e-12", "model.l2=0", "model.l2_bias=0", "search.gates_lr=1e-9", "search.search_epochs=1")


def write(path: Path, users: range, seed: int) -> None:
    rng, rows = np.random.default_rng(seed), 1500
    user, price = rng.choice(np.array(users), rows), rng.exponential(9, rows).round(3)
    tags = ["|".join(f"t{tag}" for tag in rng.integers(seed, seed + 8, 2)) for _ in range(rows)]
    clicked = (rng.random(rows) < 1 / (1 + np.exp(-np.sin(user)))).astype(int)
    lines = [f"u{u},{p},{t},{c}" for u, p, t, c in zip(user, price, tags, clicked, strict=True)]
    path.write_text("\n".join(["user,price,tags,clicked", *lines]) + "\n")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("before")
    write(place / "clicks.csv", range(40), 0)
    write(place / "later.csv", range(10, 60), 3)
    return result_of(
        dnis(place, *SHORT, "data.path=clicks.csv", "search=dnis", "search.search_epochs=2", "search.least_epochs=1")
    )[0]


@pytest.mark.parametrize("search", ["none", "dnis"])
def test_known_ids_keep_their_rows_and_others_start_afresh(before: Path, search: str) -> None:
    place = before.parents[2]
    more = STANDING[:3] if search == "none" else (*STANDING, "search.least_epochs=1")
    said = dnis(
        place, *SHORT, *more, f"search={search}", "data.path=later.csv", f"start_from={before}", "search.rates=[]"
    )
    folder, result = result_of(said)
    old, new = (
        PackedEmbedding.open(before / "embedding" / "cr-2"),
        PackedEmbedding.open(folder / "embedding" / "unpruned"),
    )
    had, has = rebuild(before), rebuild(folder)
    with torch.no_grad():
        table, weights = had.merged_table(), had.first_order.weight
        for field, known, fresh in (("user", "u15", "u55"), ("tags", "t5", "t9")):
            there, here = old.features(field, [known])[0], new.features(field, [known])[0]
            assert here != new.field(field).first
            torch.testing.assert_close(has.merged_table()[here], table[there], atol=1e-6, rtol=0)
            torch.testing.assert_close(has.first_order.weight[here], weights[there], atol=1e-6, rtol=0)
            assert old.features(field, [fresh])[0] == old.field(field).first, "it was not known"
            stranger = new.features(field, [fresh])[0]
            assert stranger != new.field(field).first
            assert not torch.isclose(has.merged_table()[stranger], table[old.field(field).first]).any()
        price = new.field("price").first + 1, old.field("price").first + 1
        torch.testing.assert_close(has.merged_table()[price[0]], table[price[1]], atol=1e-6, rtol=0)
        torch.testing.assert_close(has.global_bias, had.global_bias)
    assert f"of {result['features']} features start as they ended there" in said.stderr
    rows = list(csv.DictReader((folder / "dims.csv").open()))
    by_frequency = sorted(rows, key=lambda row: int(row["frequency"]), reverse=True)
    blocks = [int(row["block"]) for row in by_frequency]
    assert blocks == sorted(blocks), "new ids are among those that are as frequent"
    assert {"u15", "u55"} <= {row["feature"] for row in rows}


def test_fields_in_another_order_are_no_start_for_a_tower(before: Path) -> None:
    place = before.parents[2]
    tower = [*SHORT, "model=deepfm", "search=none", "search.rates=[]"]
    first = result_of(dnis(place, *tower, "data.path=clicks.csv", "data.fields=[user,tags]"))[0]
    done = dnis(place, *tower, "data.path=later.csv", f"start_from={first}", "data.fields=[tags,user]")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "start_from: the fields are others than in that run, or in another order" in done.stderr


def test_what_cannot_be_started_from_is_named(before: Path, tmp_path: Path) -> None:
    place = before.parents[2]
    later = (*SHORT, "data.path=later.csv", "search=none")
    for arguments, says in [
        ((*later, f"start_from={tmp_path}"), "not a model description that can be read"),
        ((*later, f"start_from={before}", "search.base_dim=8"), "dims=8, that one with 4"),
        ((*later, f"start_from={before}", "model=deepfm"), "start_from: this run has models with interaction="),
        ((*SHORT, "data.path=later.csv", "search=mde", f"start_from={before}"), "blocks of different widths"),
        (
            (*later, f"start_from={before}", "model.global_bias=none"),
            "the weights global_bias are not there in this run, of the shape () in that one; take the same fields",
        ),
    ]:
        done = dnis(place, *arguments)
        assert done.returncode == 1
        assert says in done.stderr
        assert "Traceback" not in done.stderr


def test_a_run_of_other_data_is_no_start(before: Path, tmp_path: Path) -> None:
    write(tmp_path / "strangers.csv", range(100, 120), 30)
    done = dnis(
        tmp_path,
        *(one for one in SHORT if not one.startswith("data.numeric")),  # numbers would be the same
        "data.fields=[user,tags]",
        "data.path=strangers.csv",
        f"start_from={before}",
    )
    assert done.returncode == 1
    assert "it has none of the ids of these data; leave it out" in done.stderr
