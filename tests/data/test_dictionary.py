"""Raw ids to codes against a plain dict, in one piece and bucket by bucket."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dnis_lightning.data import dictionary
from dnis_lightning.data.arrays import open_array
from dnis_lightning.data.dictionary import Spool

Listing = Any
OUTCOME = ["codes.npy", "ids.npy", "offsets.npy"]


def spooled(folder: Path, chunks: Sequence[pa.Array]) -> tuple[np.ndarray, list[str]]:
    """The codes of all chunks, and the ids by code."""
    spool = Spool(folder, "0")
    for chunk in chunks:
        spool.append(chunk)
    count = spool.finish(*(folder / name for name in OUTCOME))
    content, ends = open_array(folder / "ids.npy").tobytes(), open_array(folder / "offsets.npy").tolist()
    texts = [content[start:end].decode() for start, end in pairwise(ends)]
    assert len(texts) == count
    return np.array(open_array(folder / "codes.npy")), texts


def by_dict(chunks: Sequence[pa.Array]) -> tuple[list[int], list[str]]:
    """The same by a plain dict: codes in the order of first appearance."""
    code_of: dict[str, int] = {}
    raw = ["" if one is None else str(one) for chunk in chunks for one in chunk.to_pylist()]
    codes = [code_of.setdefault(one, len(code_of)) for one in raw]
    return codes, list(code_of)


@contextmanager
def limits(texts: int, size: int) -> Iterator[None]:
    """TEXTS_AT_ONCE and BYTES_AT_ONCE for a while: small ones make many buckets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dictionary, "TEXTS_AT_ONCE", texts)
        patch.setattr(dictionary, "BYTES_AT_ONCE", size)
        yield


def same_but_for_the_order(chunks: Sequence[pa.Array], codes: np.ndarray, ids: list[str]) -> None:
    """Each value has the code of its text, and each text one code."""
    expected, known = by_dict(chunks)
    assert sorted(ids) == sorted(known)
    assert [ids[code] for code in codes] == [known[code] for code in expected]
    assert sorted(set(codes.tolist())) == list(range(len(ids)))


# alike at either end, so that only one of the words that the hash goes through tells them apart
NEARLY_ALIKE = st.builds(
    lambda head, middle, tail: "12345678" * head + middle + "abcdefgh" * tail,
    st.integers(0, 3),
    st.text(alphabet="ab\x00ü", max_size=9),
    st.integers(0, 3),
)
TEXTS = st.one_of(st.none(), NEARLY_ALIKE, st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
INTEGERS = st.one_of(st.none(), st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1))
CHUNKS = st.one_of(
    st.lists(st.lists(TEXTS, max_size=12).map(lambda raw: pa.array(raw, pa.string())), max_size=5),
    st.lists(st.lists(INTEGERS, max_size=12).map(lambda raw: pa.array(raw, pa.int64())), max_size=5),
)


@settings(max_examples=40, deadline=None)
@given(chunks=CHUNKS, texts=st.integers(1, 5), size=st.integers(20, 200))
@example(chunks=[pa.array([], pa.string()), pa.array([None, ""])], texts=1, size=20)
@example(chunks=[pa.array(["a", "a\x00", "a\x00\x00"])] * 2, texts=1, size=20)
def test_bucket_by_bucket_it_is_a_dict(chunks: list[pa.Array], texts: int, size: int) -> None:
    with tempfile.TemporaryDirectory() as folder, limits(texts, size):
        same_but_for_the_order(chunks, *spooled(Path(folder), chunks))


@settings(max_examples=25, deadline=None)
@given(chunks=CHUNKS)
def test_in_one_bucket_codes_are_in_order_of_appearance(chunks: list[pa.Array]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        codes, ids = spooled(Path(folder), chunks)
    assert (codes.tolist(), ids) == by_dict(chunks)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([None, None]),
        pa.array(["b", None, "a"], pa.large_string()),
        pa.array(["left out", "b", None, "a", "left out"]).slice(1, 3),
        pa.array([300, None, 7], pa.uint16()),
        pa.array([True, None]).cast(pa.string()),
    ],
    ids=["nulls", "large", "slice", "uint16", "words"],
)
def test_columns_of_any_arrow_type(column: pa.Array, tmp_path: Path) -> None:
    codes, ids = spooled(tmp_path, [column, column])
    assert (codes.tolist(), ids) == by_dict([column, column])


@pytest.mark.parametrize(("texts", "size"), [(1 << 21, 1 << 25), (1 << 13, 1 << 16)])
def test_a_chunk_of_65536_distinct_ids(texts: int, size: int, tmp_path: Path) -> None:
    chunks = [pa.array(np.arange(1 << 16)), pa.array(np.arange(1 << 15, (1 << 16) + 99)), pa.array([None, 5])]
    with limits(texts, size):
        codes, ids = spooled(tmp_path, chunks)
    same_but_for_the_order(chunks, codes, ids)
    assert codes.dtype == np.uint32


@pytest.mark.parametrize(("ids", "dtype"), [(1, "u1"), (256, "u1"), (257, "u2"), (65_536, "u2"), (65_537, "u4")])
@pytest.mark.parametrize("texts", [1 << 21, 4999])
def test_codes_are_as_small_as_they_can_be(ids: int, dtype: str, texts: int, tmp_path: Path) -> None:
    numbers = np.arange(ids)
    with limits(texts, 1 << 25):
        codes, _ = spooled(tmp_path, [pa.array(part) for part in np.array_split(numbers, 2)])
    assert codes.dtype == np.dtype(dtype)
    assert len(np.unique(codes)) == ids


def test_very_long_texts(tmp_path: Path) -> None:
    long = "x" * (1 << 20)
    chunks = [pa.array([long + "a", "short", long + "b"]), pa.array([long + "a", None])]
    with limits(10, 3 << 20):  # two buckets, in one run
        same_but_for_the_order(chunks, *spooled(tmp_path, chunks))


@pytest.mark.parametrize(
    "texts",
    [
        [str(number) for number in range(20_000)],
        [f"{number:08x}" for number in range(20_000)],
        [f"https://example.org/item/{number:012d}.html" for number in range(20_000)],
        [f"{number:06d}" + "z" * 40 for number in range(20_000)],
    ],
    ids=["numbers", "hexadecimal", "addresses", "suffix"],
)
def test_buckets_are_about_as_full(texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in memory at a time is the fullest bucket: within 6 standard deviations of a random one."""
    found: list[np.ndarray] = []
    buckets = dictionary._Texts.buckets

    def noted(self: Any, part: slice, count: int) -> np.ndarray:
        found.append(buckets(self, part, count))
        return found[-1]

    monkeypatch.setattr(dictionary._Texts, "buckets", noted)
    with limits(400, 1 << 25):
        spooled(tmp_path, [pa.array(texts)])
    sizes = np.bincount(np.concatenate(found))
    assert len(sizes) == 50
    assert np.abs(sizes - 400).max() < 6 * 400**0.5


@pytest.mark.parametrize("texts", [1 << 21, 2])
def test_the_spool_is_gone_afterwards(texts: int, tmp_path: Path, listing: Listing) -> None:
    with limits(texts, 1 << 25):
        spooled(tmp_path, [pa.array(["a", "b", "c"]), pa.array(["d", "a"])])
    assert listing(tmp_path) == OUTCOME


@pytest.mark.parametrize("fault", ["take", "write"])
def test_the_spool_is_gone_after_a_fault(
    fault: str, tmp_path: Path, listing: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dictionary._Texts, "part", broken) if fault == "take" else monkeypatch.setattr(
        Spool, "_write_codes", broken
    )
    with limits(2, 1 << 25), pytest.raises(KeyboardInterrupt):
        spooled(tmp_path, [pa.array(["a", "b", "c"])])
    assert not [name for name in listing(tmp_path) if name.endswith(".spool")]


@pytest.mark.parametrize("texts", [1 << 21, 5000])
def test_a_full_disk_is_an_os_error(texts: int, tiny_disk: Path, listing: Listing) -> None:
    """Of the spool's 160 KiB there is room for, but not for what is made of it as well."""
    spool = Spool(tiny_disk, "0")
    spool.append(pa.array(np.arange(9000)))
    free = shutil.disk_usage(tiny_disk).free
    (tiny_disk / "fill").write_bytes(bytes(max(free - 40_000, 0)))
    with limits(texts, 1 << 25), pytest.raises(OSError, match="No space left"):
        spool.finish(*(tiny_disk / name for name in OUTCOME))
    assert not [name for name in listing(tiny_disk) if name.endswith(".spool")]


def test_a_disk_that_fills_while_spooling_is_an_os_error(tiny_disk: Path) -> None:
    spool = Spool(tiny_disk, "0")
    column = pa.array(np.arange(1 << 16))  # some 900 KiB
    with pytest.raises(OSError, match="No space left"):
        spool.append(column)
