from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dnis_lightning.data.criteo import Criteo
from dnis_lightning.data.movielens import MovieLens
from dnis_lightning.data.source import Chunk, Source
from dnis_lightning.data.store import EncodedDataset, encode
from dnis_lightning.data.synthetic import Synthetic
from dnis_lightning.errors import DataError

from .conftest import Table, random_table, write_criteo, write_movielens

Listing = Callable[[Path], list[str]]


@pytest.fixture(params=["movielens-100k", "movielens-1m", "movielens-20m", "criteo", "synthetic", "clicks", "table"])
def source(request: pytest.FixtureRequest, tmp_path: Path, criteo_lines: list[str]) -> Source:
    name: str = request.param
    if name.startswith("movielens"):
        version: Any = name.removeprefix("movielens-")
        write_movielens(tmp_path, version, zipped=version == "1m")
        return MovieLens(version, str(tmp_path))
    if name == "criteo":
        write_criteo(tmp_path, criteo_lines)
        return Criteo(str(tmp_path))
    if name in ("synthetic", "clicks"):
        return Synthetic(rows=200, features_per_field=20, field_count=3, task="ctr" if name == "clicks" else "rating")
    return random_table(100)


def listed(chunks: list[Chunk], name: str) -> list[Any]:
    """A column of all chunks."""
    columns = [chunk.columns[name] for chunk in chunks]
    return [one for column in columns for one in (column if isinstance(column, np.ndarray) else column.to_pylist())]


def test_any_source_comes_back_from_the_store(source: Source, tmp_path: Path) -> None:
    dataset = encode(source, tmp_path / "cache")
    chunks = list(source.chunks())
    assert (dataset.name, dataset.task, dataset.user_field) == (source.name, source.task, source.user_field)
    assert dataset.fields == source.fields
    np.testing.assert_array_equal(dataset.label, np.concatenate([chunk.label for chunk in chunks]))
    assert dataset.label.dtype == np.float32
    assert (dataset.time is None) == (chunks[0].time is None)
    for column, field in enumerate(dataset.numeric):
        assert dataset.values is not None
        expected = [math.nan if one is None else one for one in listed(chunks, field.name)]
        np.testing.assert_array_equal(dataset.values[:, column], np.array(expected, dtype=np.float32))
    for column, field in enumerate(dataset.coded):
        raw = dataset.raw_ids(field.name)
        expected = [str(one) for one in listed(chunks, field.name)]
        assert [raw[code] for code in dataset.codes[column]] == expected
        assert dataset.cardinalities[column] == len(raw) == len(set(expected))


def test_any_source_is_json_able_and_the_same_twice(source: Source) -> None:
    assert json.loads(json.dumps(source.identity())) == source.identity()
    first, second = list(source.chunks()), list(source.chunks())
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.label, b.label)
        assert a.done is not None
        assert 0 < a.done <= 1
    assert first[-1].done == 1


def test_the_arrays_are_mapped_and_read_only(dataset: EncodedDataset) -> None:
    assert isinstance(dataset.codes[0], np.memmap)
    assert dataset.codes[0].dtype == np.uint8
    with pytest.raises(ValueError, match="read-only"):
        dataset.codes[0][0] = 0


@pytest.mark.parametrize(("ids", "dtype"), [(256, np.uint8), (257, np.uint16), (65537, np.uint32)])
def test_codes_take_the_smallest_type(ids: int, dtype: type, tmp_path: Path) -> None:
    table = Table({"a": np.arange(ids), "b": np.zeros(ids, dtype=int)}, np.zeros(ids, np.float32), rows_at_once=9999)
    dataset = encode(table, tmp_path)
    assert dataset.codes[0].dtype == dtype
    assert dataset.codes[1].dtype == np.uint8
    np.testing.assert_array_equal(dataset.codes[0], np.arange(ids))


def test_a_source_of_numbers_alone_is_stored(tmp_path: Path) -> None:
    table = Table({"a": np.array([1.5, np.nan], dtype=np.float32)}, np.zeros(2, dtype=np.float32))
    dataset = encode(table, tmp_path)
    assert dataset.codes == ()
    np.testing.assert_array_equal(dataset.values, [[1.5], [np.nan]])


def test_none_is_the_same_as_an_empty_id(tmp_path: Path) -> None:
    raw = np.array(["a", None, "", np.nan], dtype=object)
    dataset = encode(Table({"a": raw}, np.zeros(4, dtype=np.float32)), tmp_path)
    assert dataset.codes[0].tolist() == [0, 1, 1, 1]
    assert list(dataset.raw_ids("a")) == ["a", ""]


def test_raw_ids_of_an_unknown_or_a_numeric_field_are_a_key_error(dataset: EncodedDataset) -> None:
    for name in ("a", "nothing"):
        with pytest.raises(KeyError, match=name):
            dataset.raw_ids(name)


def test_a_second_call_opens_what_is_there(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = encode(table, tmp_path)
    monkeypatch.setattr(Table, "chunks", None)
    assert encode(table, tmp_path).folder == first.folder


def test_other_options_have_another_folder(tmp_path: Path) -> None:
    assert encode(random_table(50), tmp_path).folder != encode(random_table(50, mark="other"), tmp_path).folder


@pytest.mark.parametrize("damage", ["manifest", "schema", "short", "missing", "text"])
def test_a_damaged_folder_is_made_anew(damage: str, table: Table, tmp_path: Path, listing: Listing) -> None:
    dataset = encode(table, tmp_path)
    whole, codes = listing(tmp_path), np.array(dataset.codes[1])
    folder = dataset.folder
    if damage == "manifest":
        (folder / "manifest.json").write_text("{")
    elif damage == "schema":
        told = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(told | {"schema": 0}))
    elif damage == "short":
        with (folder / "codes1.npy").open("r+b") as file:
            file.truncate(200)
    else:
        (folder / ("label.npy" if damage == "missing" else "ids0.npy")).unlink()
    np.testing.assert_array_equal(encode(table, tmp_path).codes[1], codes)
    assert listing(tmp_path) == whole


def test_a_damaged_manifest_of_another_form_is_passed_over(table: Table, tmp_path: Path) -> None:
    other = tmp_path / "table-other" / "manifest.json"
    other.parent.mkdir()
    other.write_text("[]")
    assert encode(table, tmp_path).rows == 300


def test_an_empty_source_is_named_and_leaves_nothing(tmp_path: Path, listing: Listing) -> None:
    with pytest.raises(DataError, match="table: there is no row in it"):
        encode(random_table(0), tmp_path)
    assert listing(tmp_path) == []


class Interrupted(Table):
    def chunks(self) -> Iterator[Chunk]:
        yield next(super().chunks())
        raise KeyboardInterrupt


def test_an_interruption_leaves_nothing(table: Table, tmp_path: Path, listing: Listing) -> None:
    with pytest.raises(KeyboardInterrupt):
        encode(Interrupted(table.columns, table.label, table.time, user_field="c"), tmp_path)
    assert listing(tmp_path) == []
    assert encode(table, tmp_path).rows == 300


KILLED = """
import sys, time
from pathlib import Path
from tests.data.conftest import Table, random_table
chunks = Table.chunks
def slow(self):
    yield next(chunks(self))
    print("half", flush=True)
    time.sleep(60)
Table.chunks = slow
from dnis_lightning.data.store import encode
encode(random_table(300), Path(sys.argv[1]))
"""


def test_what_a_killed_process_left_goes_with_the_next_run(table: Table, tmp_path: Path, listing: Listing) -> None:
    repository = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=repository
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert any(name.startswith(".table") for name in listing(tmp_path))
    folder = encode(table, tmp_path).folder
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_processes_that_start_together_encode_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.data.conftest import random_table\n"
        "from dnis_lightning.data.prepare import prepare\n"
        "p = prepare(random_table(5000), cache=sys.argv[1], split='three_way', split_seed=0)\n"
        "print(p.dataset.folder.stat().st_ino, p.vocabulary.features)"
    )
    repository = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", code, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=repository) for _ in range(2)]
    told = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert told[0] == told[1]


def test_a_full_disk_is_named_leaves_nothing_and_the_next_run_works(tiny_disk: Path, listing: Listing) -> None:
    message = r"table-\w+: the disk is full: table needs about [\d.]+ MiB, 0\.[12] MiB are free; .* data\.cache="
    with pytest.raises(DataError, match=message):
        encode(random_table(50_000, rows_at_once=999), tiny_disk)
    assert listing(tiny_disk) == []
    assert encode(random_table(300), tiny_disk).rows == 300


def test_a_disk_that_is_full_already_is_named(tiny_disk: Path, listing: Listing) -> None:
    fill = tiny_disk / "fill"
    with pytest.raises(OSError, match="No space"):
        fill.write_bytes(bytes(1 << 20))
    with pytest.raises(DataError, match="the disk is full"):
        encode(random_table(300), tiny_disk)
    assert listing(tiny_disk) == ["fill"]
    fill.unlink()
    assert encode(random_table(300), tiny_disk).rows == 300


def test_a_cache_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(DataError, match=r"cache/table-\w+: cannot be written .* data\.cache="):
        encode(random_table(30), tmp_path / "cache")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match=r"cannot be written \(Permission denied\)"):
        encode(random_table(30), tmp_path / "cache")
