"""The folder of a packed embedding: what is read back, and what is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dnis_lightning.errors import RunError
from dnis_lightning.packed import PackedEmbedding
from dnis_lightning.packed.embedding import digest_of
from dnis_lightning.packed.fields import FieldIds, PackedField
from dnis_lightning.packed.numbers import Scaled
from dnis_lightning.packed.texts import Texts
from dnis_lightning.scheme import Scheme

FIELDS = (
    PackedField("user", "categorical", 0, 4, ids=FieldIds.of(Texts.of(["5", "", "9"]))),
    PackedField("price", "numeric", 4, 6, numbers=Scaled(True, 0.0, 4.0)),
    PackedField("tags", "multi", 6, 9, 3, ids=FieldIds.of(Texts.of(["x", "y"]))),
)
TABLE = np.random.default_rng(0).normal(size=(9, 8)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    scheme = Scheme.from_dense(TABLE, np.random.default_rng(1).random((9, 8)) < 0.5)
    packed = PackedEmbedding(scheme.packed(np.zeros(9, dtype=np.int32)), FIELDS)
    (tmp_path / "embedding").mkdir()
    packed.save(tmp_path / "embedding", {"run": {"data": "clicks"}})
    return tmp_path / "embedding"


def test_it_reads_back(folder: Path) -> None:
    found, dense = PackedEmbedding.open(folder), TABLE * (np.random.default_rng(1).random((9, 8)) < 0.5)
    assert np.array_equal(found.rows(np.arange(9)), dense)
    assert np.array_equal(found.lookup("user", ["9", "5", "nobody", ""]), dense[[3, 1, 0, 2]])
    assert np.array_equal(found.lookup("tags", ["y"]), dense[[8]])
    assert [(one.name, one.kind, one.columns) for one in found.fields] == [
        ("user", "categorical", 1),
        ("price", "numeric", 1),
        ("tags", "multi", 3),
    ]
    assert found.told["run"] == {"data": "clicks"}
    assert found.told["files"]["table.safetensors"]["bytes"] == found.table.bytes


def test_an_unknown_field_is_named(folder: Path) -> None:
    with pytest.raises(KeyError, match="item: no field of this name; there are user, price, tags"):
        PackedEmbedding.open(folder).features("item", ["1"])


def _cut(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])


def _flip(folder: Path, name: str) -> None:
    """One bit of what follows the header first: of a value, in a table."""
    content = bytearray((folder / name).read_bytes())
    content[8 + int.from_bytes(content[:8], "little")] ^= 1
    (folder / name).write_bytes(content)


def _told(folder: Path, *, sealed: bool = True, **changed: object) -> None:
    told = json.loads((folder / "manifest.json").read_text()) | changed
    (folder / "manifest.json").write_text(json.dumps(told | ({"sha256": digest_of(told)} if sealed else {})))


def _overlap(folder: Path) -> None:
    fields = json.loads((folder / "manifest.json").read_text())["fields"]
    fields[1]["rows"][0] = 3
    _told(folder, fields=fields)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "No such file"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "Expecting"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "is of something else"),
        (lambda folder: _told(folder, format="a table"), "is of something else"),
        (lambda folder: _told(folder, version=2), "version 2 of the format, this program reads 1"),
        (lambda folder: (folder / "table.safetensors").unlink(), "No such file"),
        (lambda folder: _cut(folder, "table.safetensors"), r"table\.safetensors has \d+ bytes, its manifest says"),
        (lambda folder: _flip(folder, "table.safetensors"), r"table\.safetensors has another checksum"),
        (lambda folder: _flip(folder, "vocabulary.safetensors"), r"vocabulary\.safetensors has another checksum"),
        (lambda folder: _told(folder, fields=[]), "fields and table do not go together"),
        (lambda folder: _told(folder, sealed=False, pooling="mdan"), r"manifest\.json has been changed"),
        (lambda folder: _told(folder, fields=None), "NoneType"),
        (_overlap, "the rows of the field price are not what its ids want"),
        (lambda folder: _told(folder, files={}), r"'table\.safetensors' is not there"),
    ],
)
def test_what_is_damaged_or_foreign_is_refused(folder: Path, damage: Callable[[Path], object], says: str) -> None:
    damage(folder)
    with pytest.raises(RunError, match=f"embedding: not a packed embedding that can be read .*{says}"):
        PackedEmbedding.open(folder)


def test_files_that_are_swapped_are_refused(folder: Path) -> None:
    table, vocabulary = folder / "table.safetensors", folder / "vocabulary.safetensors"
    content = table.read_bytes()
    table.write_bytes(vocabulary.read_bytes())
    vocabulary.write_bytes(content)
    facts = json.loads((folder / "manifest.json").read_text())["files"]
    _told(folder, files={"table.safetensors": facts[vocabulary.name], "vocabulary.safetensors": facts[table.name]})
    with pytest.raises(RunError, match="no packed"):
        PackedEmbedding.open(folder)


def test_without_the_check_only_sizes_are_compared(folder: Path) -> None:
    _flip(folder, "table.safetensors")
    assert PackedEmbedding.open(folder, check=False).table.features == 9


def test_it_reads_without_anything_heavy(folder: Path) -> None:
    script = f"""
import sys
sys.modules["numba"] = None
from dnis_lightning.packed import PackedEmbedding
from dnis_lightning.packed.embedding import digest_of
print(PackedEmbedding.open({str(folder)!r}).lookup("user", ["9"]).shape)
print(sorted({{name.split(".")[0] for name in sys.modules}} & {{"torch", "pandas", "pyarrow", "scipy", "pydantic"}}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split("\n")[:2] == ["(1, 8)", "[]"]


def test_raw_values_of_numbers_multiply_their_row(folder: Path) -> None:
    embedding = PackedEmbedding.open(folder)
    one, two, missing = embedding.lookup("price", [1.0, "3", None])
    field = embedding.field("price")
    row = embedding.rows(np.array([field.first + 1]))[0]
    values = field.encode([1.0, 3.0])[1]
    np.testing.assert_allclose(np.stack([one, two]), values[:, None] * row, rtol=1e-6)
    assert np.array_equal(missing, embedding.rows(np.array([field.first]))[0])
    for raw, fault in ((["1e39"], "1e+39 is no finite number"), ([float("inf")], "inf is no finite number")):
        with pytest.raises(ValueError, match=re.escape(fault)):
            embedding.lookup("price", raw)


def test_one_value_is_no_list_of_its_characters(folder: Path) -> None:
    embedding = PackedEmbedding.open(folder)
    with pytest.raises(TypeError, match="'59': one value; give a list of them"):
        embedding.lookup(embedding.fields[0].name, "59")
    with pytest.raises(TypeError, match="features of the type float64, expected whole numbers"):
        embedding.rows(np.array([1.0]))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc")
def test_a_file_is_open_once_however_many_arrays_it_has(folder: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    embeddings = [PackedEmbedding.open(folder) for _ in range(10)]
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 20
    assert embeddings[9].table.kept
