from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from dnis_lightning.data.roles import put_together
from dnis_lightning.data.schema import ColumnSummary, Schema, infer

ROWS = 200


def inferred(columns: dict[str, list[Any]], **said: Any) -> dict[str, ColumnSummary]:
    """The columns of a table of text with the label `y`, 0 and 1 at irregular places."""
    label = [str(int(row % 3 == 0 or row % 7 == 0)) for row in range(ROWS)]
    none = {"fields": None, "numeric": (), "multi": (), "kinds": {}, "ignore": ()}
    none |= {"time": None, "user": None, "split_column": None}
    schema = infer(pa.table({**columns, "y": label}), put_together(label="y", **{**none, **said}))
    return {column.name: column for column in schema.columns}


def cycled(*values: Any) -> list[Any]:
    return [values[row % len(values)] for row in range(ROWS)]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (cycled("1.5", "2", ""), "numeric"),
        (cycled("-.5", "1e3", "+2."), "numeric"),
        (cycled("1e-3", "1"), "numeric"),
        (cycled("1.0", "2.0"), "categorical"),
        (cycled("1", "2", "3"), "categorical"),
        (cycled("007", "7"), "categorical"),
        (cycled("1.5", "x"), "categorical"),
        (cycled("1.5.2", "1.4.1"), "categorical"),
        (cycled("", ""), "categorical"),
        (cycled(1.5, None), "numeric"),
        (cycled(1.0, None), "categorical"),
        (cycled(True, False), "categorical"),
        (cycled(["a"], None, ["b", "c"]), "multi"),
    ],
)
def test_kinds(values: list[Any], kind: str) -> None:
    assert inferred({"x": values})["x"].taken_as == kind


@pytest.mark.parametrize(
    ("values", "remark"),
    [
        (
            ["1.5"] * 199 + ["oops"],
            "all but 1 are numbers: data.numeric=[x] takes it for numbers, the rest for bad rows",
        ),
        ([str(row) for row in range(ROWS)], "unique to each row: no use as a feature; data.ignore=[x] leaves it out"),
        (cycled("a"), "one value only"),
        (cycled("", ""), "no value in any row"),
        (cycled(*map(str, range(70))), "whole numbers, taken as ids; data.numeric=[x] takes them as numbers"),
        (cycled(*range(70)), "whole numbers, taken as ids; data.numeric=[x] takes them as numbers"),
        (cycled(*(f"0{n}" for n in range(70))), ""),
        (cycled("1", "2", "3"), ""),
        (cycled("a|b", "c"), "has '|' in it; data.multi=[x] takes it as several values"),
        (cycled("a", ""), ""),
        (["yes" if row % 3 == 0 or row % 7 == 0 else "no" for row in range(ROWS)], "equals the label: does it leak?"),
        ([0.5 if row % 3 == 0 or row % 7 == 0 else 1.5 for row in range(ROWS)], "equals the label: does it leak?"),
    ],
)
def test_remarks(values: list[Any], remark: str) -> None:
    assert inferred({"x": values})["x"].remark == remark


def test_what_the_user_says_needs_no_remark() -> None:
    ages = cycled(*map(str, range(70)))
    assert inferred({"x": ages}, kinds={"x": "categorical"})["x"].remark == ""
    assert inferred({"x": ages}, user="x")["x"].remark == ""
    assert inferred({"x": ages}, numeric=["x"])["x"] == ColumnSummary("x", "numeric", 70, 0.0, "0")


def test_counts_and_examples() -> None:
    found = inferred({"x": cycled("", "b", "b", "c"), "tags": cycled([], ["b", "c"], None, ["c"])})
    assert found["x"] == ColumnSummary("x", "categorical", 2, 0.25, "b")
    assert found["tags"] == ColumnSummary("tags", "multi", 2, 0.5, "b, c")
    assert found["y"].taken_as == "label"


def test_columns_beside_the_fields() -> None:
    columns = {name: cycled("a", "b") for name in ("c", "b", "a", "t", "s")}
    found = inferred(columns, time="t", split_column="s", fields=["b", "c"])
    assert {name: column.taken_as for name, column in found.items()} == {
        "b": "categorical",
        "c": "categorical",
        "a": "ignored",
        "t": "time",
        "s": "split",
        "y": "label",
    }
    assert list(found)[:2] == ["b", "c"]


def test_the_table_of_text_is_aligned() -> None:
    columns = (
        ColumnSummary("user", "categorical", 12_345, 0.0, "0054890", "one value only"),
        ColumnSummary("a", "numeric", 7, 0.25, "1.5"),
    )
    assert str(Schema(columns, 8)).splitlines() == [
        "column  taken as     distinct  missing  example  remark",
        "user    categorical    12,345     0.0%  0054890  one value only",
        "a       numeric             7    25.0%  1.5",
    ]
