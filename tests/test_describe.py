"""The description of data: counts by hand, what is written, and every mistake in a sentence."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dnis_lightning.blocks import make_blocks
from dnis_lightning.data.__main__ import main
from dnis_lightning.data.statistics import skew_of
from dnis_lightning.describe import asked_for, describe
from dnis_lightning.errors import UserError
from dnis_lightning.report.description import block_facts
from tests.command import environment
from tests.data.conftest import criteo_line, real_data, write_criteo, write_movielens  # noqa: F401

PNG = b"\x89PNG"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dnis_lightning.report.figures.DPI", 20)  # for speed


def described(*words: str, drawn: bool = False) -> dict[str, Any]:
    """What describe.json says after the command; drawn: the picture is written too, which takes a while."""
    with pytest.MonkeyPatch.context() as patch:
        if not drawn:
            patch.setattr("dnis_lightning.report.figures.save", lambda figure, path: None)
        assert main(["describe", *words, "cache=cache", "--to", "to"]) == 0
    assert Path("to/describe.png").exists() == drawn
    told: dict[str, Any] = json.loads(Path("to/describe.json").read_text())
    return told


def column(told: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in told["columns"] if one["name"] == name)


def clicks(rows: int = 40) -> str:
    """A user unique to each row, four cities of which one is missing, a price missing in every fourth row, one site."""
    cities = ("Rome", "Oslo", "Oslo", "")
    lines = [f"u{i},{cities[i % 4]},{'' if i % 4 == 1 else i + 0.5},x,{i % 2}" for i in range(rows)]
    return "\n".join(["user,city,price,site,clicked", *lines]) + "\n"


def test_a_table_is_counted_as_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    Path("clicks.csv").write_text(clicks())
    told = described("clicks.csv", "label=clicked", "task=ctr", drawn=True)
    assert Path("to/describe.png").read_bytes().startswith(PNG)
    assert (told["instances"], told["fields"]) == (40, 4)
    assert told["features"] == 40 + 3 + 1 + 1  # users, cities with the missing one, the price, the site
    assert [one["distinct"] for one in told["columns"]] == [40, 3, None, 1]
    assert [one["missing"] for one in told["columns"]] == [0, 0.25, 0.25, 0]
    assert told["rows"] == {"train": 32, "search": 2, "select": 2, "test": 4}
    rows = [1 + 32, 1 + 3, 2, 2]
    assert [one["table_rows"] for one in told["columns"]] == rows
    assert told["table"] == {"rows": sum(rows), "base_dim": 64, "mib": sum(rows) * 64 * 4 / 2**20}
    users = column(told, "user")
    assert users["train"]["seen_once"] == users["train"]["features"] == 32
    assert math.isclose(users["train"]["share_of_top_1_percent"], 1 / 32)
    assert math.isclose(users["train"]["share_of_top_10_percent"], 4 / 32)
    assert column(told, "city")["train"]["most_frequent"] == "Oslo"
    assert column(told, "price")["train"] is None
    assert [one["remark"] for one in told["columns"]] == [
        "unique to each row: no use as a feature",
        None,
        None,
        "one value only",
    ]
    out = capsys.readouterr().out
    assert "taken as" in out, "the schema comes first"
    assert out.splitlines()[-2:] == ["to/describe.png", "to/describe.json"]


def test_rare_ids_are_out_of_vocabulary() -> None:
    Path("clicks.csv").write_text(clicks())
    told = described("clicks.csv", "label=clicked", "data.task=ctr", "min_count=2", "++min_counts={site: 99}")
    assert [column(told, name)["out_of_vocabulary"] for name in ("user", "city", "price", "site")] == [1, 0, None, 1]
    assert [one["table_rows"] for one in told["columns"]] == [1, 4, 2, 1]
    assert column(told, "user")["train"]["features"] == 32, "the skew is that of the ids, not of the table's rows"


def test_without_a_label_every_column_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    Path("clicks.csv").write_text(clicks())
    told = described("clicks.csv")
    assert column(told, "clicked")["distinct"] == 2
    assert told["features"] == 40 + 3 + 1 + 1 + 2
    assert "data.label and data.task are not given: no column is left out as the label." in capsys.readouterr().out


def test_a_label_without_a_task_is_left_out() -> None:
    Path("clicks.csv").write_text(clicks())
    assert described("clicks.csv", "label=clicked")["fields"] == 4


def test_files_patterns_and_keys_of_text_files() -> None:
    for name in ("a", "b"):
        Path(f"{name}.dat").write_text("".join(f"{name}{u}::{i}::{u % 5}::9\n" for u in range(6) for i in range(5)))
    keys = ("separator=::", "columns=[user,item,rating,time]", "label=rating", "task=rating", "time=time")
    told = described("*.dat", *keys)
    assert (told["instances"], told["fields"], told["features"]) == (60, 2, 12 + 5)
    assert described("a.dat", "b.dat", *keys) == told


def test_skipped_rows_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("clicks.csv").write_text(clicks() + "u1,Rome,1.5\n")
    assert described("clicks.csv", "label=clicked", "task=ctr", "bad_rows=skip")["skipped_rows"] == 1
    assert "Skipped: 1 row that could not be read" in capsys.readouterr().out


def test_several_values_a_row_are_all_counted() -> None:
    Path("t.csv").write_text("tags,label\n" + "a|b|c,1\na,2\n,3\nb,4\n" * 10)
    told = described("t.csv", "label=label", "task=rating", "multi=[tags]", "search.blocks=2")
    assert column(told, "tags")["distinct"] == 4
    assert column(told, "tags")["missing"] == 0.25


def test_a_small_movielens() -> None:
    write_movielens(Path(), "1m")
    told = described("movielens-1m", "root=.", "search.blocks=2", drawn=True)
    assert (told["data"], told["instances"], told["fields"], told["features"]) == ("movielens-1m", 36, 2, 12)
    assert [block["features"] for block in told["blocks"]] == [7, 7], "six of each field and a row for all others"
    assert math.isclose(sum(block["share"] for block in told["blocks"]), 1)
    assert sum(told["rows"].values()) == 36


def test_synthetic_data() -> None:
    told = described("synthetic", "rows=3000", "features_per_field=50")
    assert (told["instances"], told["fields"], told["features"]) == (3000, 2, 100)
    assert len(told["blocks"]) == 5


@pytest.mark.parametrize("numeric", ["scalar", "log2", "quantile"])
def test_numbers_of_criteo_are_a_feature_each(numeric: str, criteo_lines: list[str]) -> None:
    write_criteo(Path(), criteo_lines)
    told = described("criteo", "root=.", f"numeric={numeric}", "min_count=2", drawn=numeric == "log2")
    assert told["fields"] == 39
    assert told["features"] == 13 + 7 + 2 + 24, "C1, C26 with the missing one, and one missing for each other category"
    first, second = column(told, "I1"), column(told, "I2")
    assert (first["distinct"], first["missing"], second["missing"], column(told, "I3")["missing"]) == (None, 0, 0, 1)
    if numeric == "scalar":
        assert (second["table_rows"], second["train"]) == (2, None)
    else:
        assert second["table_rows"] == 1 + second["train"]["features"] > 2
    assert column(told, "I3")["remark"] == column(told, "C2")["remark"] == "no value in any row"
    assert math.isclose(column(told, "C26")["missing"], 14 / 40)


@pytest.fixture
def criteo_lines() -> list[str]:
    return [criteo_line(i % 2, I1=5, I2=i // 4, C1=f"{i % 7:08x}", C26="ff" if i % 3 else "") for i in range(40)]


def test_skew_is_that_of_a_loop() -> None:
    counts = np.random.default_rng(0).zipf(1.5, 1234) % 5000 * np.random.default_rng(1).integers(0, 2, 1234)
    skew = skew_of(counts, "x")
    assert skew is not None
    descending = sorted((int(count) for count in counts if count), reverse=True)
    for share, told in ((0.01, skew.top_1), (0.1, skew.top_10)):
        held = sum(descending[: math.ceil(share * len(descending))]) / sum(descending)
        assert math.isclose(told, held)
    assert math.isclose(skew.most, descending[0] / sum(descending))
    assert skew.once == descending.count(1)
    assert (skew.ranks[0], skew.ranks[-1]) == (1, len(descending))
    assert skew.frequency.tolist() == [descending[rank - 1] for rank in skew.ranks]
    assert skew_of(np.zeros(3, dtype=np.int64), "x") is None


def test_empty_blocks_have_no_range() -> None:
    frequency = np.array([500, 3, 2, 0])
    blocks = make_blocks(frequency, np.zeros(4), blocks=3, blocking="decades")
    facts = [(one.features, one.least, one.most) for one in block_facts(blocks, frequency)]
    assert facts == [(1, 500, 500), (0, 0, 0), (3, 0, 3)] or facts == [(0, 0, 0), (1, 500, 500), (3, 0, 3)]


def test_too_many_blocks_leave_the_rest_of_the_description(capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.csv").write_text("a,label\n" + "x,1\ny,2\n" * 20)
    told = described("t.csv", "label=label", "task=rating", drawn=True)
    assert told["blocks"] == []
    assert told["no_blocks"] == "search.blocks: 10 blocks for 3 features; take at most 3"
    assert "No blocks: search.blocks: 10 blocks" in capsys.readouterr().out


def test_the_second_call_reads_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("clicks.csv").write_text(clicks())
    first = described("clicks.csv", "label=clicked", "task=ctr")
    monkeypatch.setattr("dnis_lightning.data.table.Table.chunks", None)
    assert described("clicks.csv", "label=clicked", "task=ctr") == first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["there-is-none.csv"], "there-is-none.csv: there is no such file"),
        (["movielens-1"], "did you mean movielens-1"),
        (["none-*.csv"], "data.path=none-*.csv: no file matches"),
        (["label=clicked"], "label=clicked: a file or one of criteo"),
        (["clicks.csv", "labell=clicked"], "data.labell: there is no such key"),
        (["clicks.csv", "+labell=clicked"], "data.labell: nothing reads this key"),
        (["clicks.csv", "label=click", "task=ctr"], "has no column 'click'"),
        (["clicks.csv", "label=user", "task=ctr"], "user is 'u0', expected 0 or 1"),
        (["clicks.csv", "label=user"], "expected a number"),
        (["clicks.csv", "ignore=[towns]"], "has no column 'towns'"),
        (["clicks.csv", "min_count=many"], "data.min_count: it should be a valid integer"),
        (["clicks.csv", "data=criteo"], "data=criteo: clicks.csv is described already"),
        (["clicks.csv", "path=other.csv"], "is taken for the path"),
        (["clicks.csv", "model=none"], "model=none: there is no such option"),
        (["clicks.csv", "columns=[a"], "columns=[a"),
        (["synthetic", "clicks.csv"], "only keys are expected"),
        (["criteo", "root=nowhere"], "not there"),
        (["table"], "data.path: no value"),
        (["clicks.csv", "--into", "x"], "--into"),
        ([], "WHAT"),
        (["clicks.csv", "--to", "clicks.csv"], "clicks.csv: this is a file"),
    ],
)
def test_a_mistake_is_a_sentence(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("clicks.csv").write_text(clicks())
    assert main(["describe", *words, *(["cache=cache"] if words else [])]) == 1
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert not Path("describe").exists()


def test_the_command_runs_as_a_module() -> None:
    Path("clicks.csv").write_text(clicks())
    command = [sys.executable, "-m", "dnis_lightning.data", "describe", "clicks.csv", "no=1"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=120)
    assert done.returncode == 1
    assert done.stderr == (
        "data.no: there is no such key; python -m dnis_lightning data=table --cfg job shows those there are\n"
    )


@pytest.mark.data
def test_movielens_1m_has_the_papers_features(real_data: Path) -> None:  # noqa: F811
    told = described("movielens-1m", f"root={real_data}")
    assert (told["instances"], told["fields"], told["features"]) == (1_000_209, 2, 9_746)
    assert [one["distinct"] for one in told["columns"]] == [6_040, 3_706]


def test_min_counts_of_a_field_that_is_not_there_is_named() -> None:
    Path("clicks.csv").write_text(clicks())
    with pytest.raises(UserError, match=r"data\.min_counts: there is no field 'citty', only .*; did you mean 'city'\?"):
        describe(asked_for(["clicks.csv", "label=clicked", "data.task=ctr", "min_counts={citty: 5}", "cache=cache"]))
