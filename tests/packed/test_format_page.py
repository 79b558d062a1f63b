"""docs/format.md by its own words: the reader on that page, which shares no code with ours, reads what we write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from dnis_lightning.packed import PackedEmbedding
from dnis_lightning.packed.fields import FieldIds, PackedField
from dnis_lightning.packed.ids import Form
from dnis_lightning.packed.layouts import LayoutName
from dnis_lightning.packed.table import PackedTable, Projections
from dnis_lightning.packed.texts import Texts
from dnis_lightning.packed.values import DTypeName
from dnis_lightning.scheme import Scheme

PAGE = Path(__file__).parents[2] / "docs" / "format.md"
IDS: dict[Form, list[str]] = {
    "range": ["12", "10", "14", "11"],
    "numbers": ["70000", "-3", "9", "123456789012345678"],
    "texts": ["a", "ü", "", "007", "a longer id than eight bytes", "+7"],
}
UNKNOWN = ["13", "8", "-0", "+9", "b", "07", "1234567890123456789", "a longer id than eight bytez", "²"]


@pytest.fixture(scope="module")
def reader() -> dict[str, Any]:
    code = PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    return names


def embedding_of(layout: LayoutName | None, dtype: DTypeName) -> PackedEmbedding:
    """All forms of ids, and rows of which runs keep the same dimensions."""
    fields, first = [], 0
    for form, ids in IDS.items():
        fields.append(PackedField(form, "categorical", first, first + len(ids) + 1, ids=FieldIds.of(Texts.of(ids))))
        first = fields[-1].end
    rng = np.random.default_rng(0)
    kept = np.repeat(rng.random((5, 11)) < 0.4, 4, axis=0)[:first]
    table = Scheme.from_dense(rng.normal(size=kept.shape).astype(np.float32), kept)
    return PackedEmbedding(table.packed(np.zeros(0, np.int32), dtype, layout), tuple(fields))


@pytest.mark.parametrize("layout", get_args(LayoutName))
@pytest.mark.parametrize("dtype", get_args(DTypeName))
def test_the_page_reads_rows(reader: dict[str, Any], layout: LayoutName, dtype: DTypeName, tmp_path: Path) -> None:
    ours = embedding_of(layout, dtype)
    ours.save(tmp_path)
    arrays, words = reader["arrays_of"](tmp_path / "table.safetensors")
    found = [reader["row"](arrays, words, i) for i in range(ours.table.features)]
    assert words["layout"] == layout
    assert np.array_equal(np.array(found, dtype=np.float32), ours.rows(np.arange(ours.table.features)))


@pytest.mark.parametrize("copies", [1, 2])
def test_the_page_widens_rows(reader: dict[str, Any], copies: int, tmp_path: Path) -> None:
    features, dims, narrow = 9, 4, 2  # of each of the tables side by side
    rng, blocks = np.random.default_rng(1), np.repeat([0, 2, 5], 3)
    kept = np.tile(np.arange(dims) < np.where(blocks == 2, dims, narrow)[:, None], copies)
    scheme = Scheme.from_dense(rng.normal(size=kept.shape).astype(np.float32), kept)
    matrices = {block: rng.normal(size=(copies * narrow, dims)).astype(np.float32) for block in (0, 5)}
    table = PackedTable.of(
        scheme.indptr, scheme.positions, scheme.values, copies * dims, projections=Projections.of(matrices, blocks)
    )
    table.save(tmp_path / "table.safetensors")
    arrays, words = reader["arrays_of"](tmp_path / "table.safetensors")
    found = [reader["row"](arrays, words, i) for i in range(features)]
    assert np.allclose(found, table.rows(np.arange(features)), rtol=1e-6, atol=1e-6)


def test_the_page_finds_ids(reader: dict[str, Any], tmp_path: Path) -> None:
    ours = embedding_of(None, "fp32")
    ours.save(tmp_path)
    fields = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))["fields"]
    arrays, _ = reader["arrays_of"](tmp_path / "vocabulary.safetensors")
    assert [one["ids"] for one in fields] == list(IDS)
    for number, (one, known) in enumerate(zip(fields, IDS.values(), strict=True)):
        found = [reader["feature_of"](arrays, number, one, text) for text in [*known, *UNKNOWN]]
        assert found[: len(known)] == list(range(one["rows"][0] + 1, one["rows"][1]))
        assert found == ours.features(one["name"], [*known, *UNKNOWN]).tolist()
        assert found[len(known) :] == [one["rows"][0]] * len(UNKNOWN)
