"""A table of the user's own, from its files to a trained model that takes new rows."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dnis_lightning.blueprint import rebuild
from dnis_lightning.data.mapping import RawMapping

from .command import dnis, result_of

SHORT = (
    "data=table",
    "data.batch_size=256",
    "search.base_dim=4",
    "search.blocks=3",
    "search.search_epochs=2",
    "search.least_epochs=1",
    "search.rates=[2]",
    "prune.finetune_epochs=1",
    "trainer.max_epochs=2",
    "trainer.threads=1",
)
PLAIN = (*SHORT[:3], *SHORT[-2:], "search=none", "search.rates=[]")


@pytest.fixture(scope="module")
def columns() -> dict[str, list[object]]:
    """2,000 clicks: a user with leading zeros, a price that may be missing, tags, a time."""
    rng = np.random.default_rng(0)
    users, rows = rng.normal(size=50), 2000
    user = rng.integers(0, 50, rows)
    price: list[object] = [
        None if gone else float(x) for x, gone in zip(rng.exponential(10, rows), rng.random(rows) < 0.1, strict=True)
    ]
    tags: list[object] = [[f"t{tag}" for tag in rng.integers(0, 12, rng.integers(0, 4))] for _ in range(rows)]
    clicked = (rng.random(rows) < 1 / (1 + np.exp(-users[user]))).astype(int)
    return {
        "user": [f"{one:04d}" for one in user],
        "price": price,
        "tags": tags,
        "clicked": clicked.tolist(),
        "time": np.arange(rows).tolist(),
    }


def test_parquet_with_lists_trains_and_takes_new_rows(columns: dict[str, list[object]], tmp_path: Path) -> None:
    table = pa.table(columns)
    pq.write_table(table, tmp_path / "clicks.parquet")
    said = dnis(
        tmp_path,
        *SHORT,
        "data.path=clicks.parquet",
        "data.label=clicked",
        "data.task=ctr",
        "data.split=time",
        "data.time=time",
    )
    folder, result = result_of(said)
    assert (result["data"], result["model"], result["fields"], result["skipped_rows"]) == ("table", "fm", 3, 0)
    assert result["rows"] == {"train": 1600, "search": 100, "select": 100, "test": 200}
    for line in ("user    categorical", "price   numeric", "tags    multi", "clicked  label"):
        assert " ".join(line.split()) in " ".join(said.stderr.split())
    assert "user" in (folder / "run.log").read_text()

    last = table.slice(1800)
    batch = RawMapping.load(folder).encode({name: last[name].combine_chunks() for name in ("user", "price", "tags")})
    label = torch.tensor(last["clicked"].to_pylist(), dtype=torch.float64)
    for budget, told in ((None, result["unpruned"]), ("cr:2", result["pruned"][0])):
        with torch.no_grad():
            logits = rebuild(folder, budget)(batch).logits.double()
        found = torch.nn.functional.binary_cross_entropy_with_logits(logits, label)
        assert found.item() == pytest.approx(told["metrics"]["test/logloss"], rel=1e-4)


def test_csv_files_with_bad_lines_are_named_or_left_out(columns: dict[str, list[object]], tmp_path: Path) -> None:
    for part in range(2):
        with (tmp_path / f"part{part}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["user", "price", "clicked"])
            writer.writerows(zip(*(columns[name][part::2] for name in ("user", "price", "clicked")), strict=True))
    with (tmp_path / "part1.csv").open("a") as file:
        file.write("0001,cheap,1\n0002,3\n")
    told = ("data.path=part*.csv", "data.label=clicked", "data.task=ctr", "data.numeric=[price]", *PLAIN)
    said = dnis(tmp_path, *told)
    assert said.returncode == 1
    assert "part1.csv:1002: price is 'cheap', expected a number; mend or remove this line" in said.stderr
    assert not list((tmp_path / "cache").glob("*"))
    said = dnis(tmp_path, *told, "data.bad_rows=skip")
    folder, result = result_of(said)
    assert result["skipped_rows"] == 2
    assert sum(result["rows"].values()) == 2000
    for shown in (said.stderr, (folder / "run.log").read_text()):
        assert "2 bad rows were left out; the first:" in shown

    again = dnis(tmp_path, *told, "data.bad_rows=skip", "seed=1")
    assert "other content" not in again.stderr
    (tmp_path / "part0.csv").write_text((tmp_path / "part0.csv").read_text() + "0003,1.5,0\n")
    changed = dnis(tmp_path, *told, "data.bad_rows=skip", "seed=1")
    assert "table: files so named were encoded with other content; encoding anew (" in changed.stderr
    assert sum(result_of(changed)[1]["rows"].values()) == 2001


def test_few_steps_an_epoch_are_told_with_a_batch_that_has_more(
    columns: dict[str, list[object]], tmp_path: Path
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "clicks.parquet")
    said = {}
    for batch in (256, 32):
        arguments = (*PLAIN, f"data.batch_size={batch}", "data.path=clicks.parquet", "data.label=clicked")
        said[batch] = dnis(tmp_path, *arguments, "data.task=ctr", "data.fields=[user]")
        result_of(said[batch])
    told = "data.batch_size=256: an epoch of 1,600 rows has 7 steps"
    for log in (said[256].stderr, (result_of(said[256])[0] / "run.log").read_text()):
        assert log.count(told) == 1
    assert "data.batch_size=32 has some 50" in said[256].stderr
    assert "too few" not in said[32].stderr


@pytest.mark.parametrize(
    ("factor", "offset", "code", "says"),
    [
        (1e20, 0, 1, r"data\.label: labels with a mean of .* are too large for single precision; divide them"),
        (1e-20, 0, 0, "are too small for single precision; multiply them"),
        (1, 1e7, 0, "lose what tells them apart in single precision; subtract a constant from them"),
    ],
)
def test_labels_that_single_precision_cannot_hold(
    factor: float, offset: float, code: int, says: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    ratings = rng.integers(1, 6, 600) * factor + offset
    rows = zip(rng.integers(0, 20, 600), rng.integers(0, 20, 600), ratings, strict=True)
    lines = "".join(f"u{user},i{item},{float(rating)!r}\n" for user, item, rating in rows)
    (tmp_path / "ratings.csv").write_text("user,item,rating\n" + lines)
    done = dnis(tmp_path, *PLAIN, "model=mf", "data.task=rating", "data.path=ratings.csv", "data.label=rating")
    assert done.returncode == code
    assert re.search(says, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert code == 0 or not list((tmp_path / "outputs").glob("*/*"))


def test_the_unit_of_ratings_does_not_matter(tmp_path: Path) -> None:
    """L2 of rows grows with the labels, so that ratings five times as large are learned as well."""
    rng = np.random.default_rng(0)
    found: list[float] = []
    users, items, noise = rng.integers(0, 20, 3000), rng.integers(0, 15, 3000), rng.normal(size=3000)
    taste, kind = rng.normal(size=(2, 20, 2))
    labels = (taste[users] * kind[items]).sum(1) + 0.3 * noise
    for name, unit in (("one", 1.0), ("five", 5.0)):
        lines = [f"u{user},i{item},{label * unit}" for user, item, label in zip(users, items, labels, strict=True)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["user,item,rating", *lines]) + "\n")
        folder, result = result_of(
            dnis(
                tmp_path,
                "data=table",
                f"data.path={tmp_path / name}.csv",
                "data.label=rating",
                "data.task=rating",
                "model=mf",
                "search=none",
                "search.base_dim=8",
                "optimizer.lr=0.02",
                "data.batch_size=256",
                "trainer.max_epochs=30",
            )
        )
        assert result["unpruned"]["metrics"]["select/mse"] < 0.5 * np.var(labels * unit), "something is learned"
        (l2,) = re.findall(r"L2 (\S+) on rows, 0.3 on first-order terms", (folder / "run.log").read_text())
        found.append(float(l2) / unit)
    assert found == pytest.approx([1.35 * np.std(labels)] * 2, rel=0.02)
