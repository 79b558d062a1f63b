"""Packed tables against the masked dense tables that they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnis_lightning.embedding.mixed import MixedTable
from dnis_lightning.packed import loops
from dnis_lightning.packed.layouts import LayoutName
from dnis_lightning.packed.pointers import Pointers, flat_places
from dnis_lightning.packed.table import PackedTable, Projections
from dnis_lightning.packed.tensors import DAMAGE
from dnis_lightning.packed.values import DTypeName, from_bf16, to_bf16
from dnis_lightning.scheme import Scheme

LAYOUTS: tuple[LayoutName, ...] = get_args(LayoutName)
DTYPES: tuple[DTypeName, ...] = get_args(DTypeName)
NO_BLOCKS = np.zeros(0, dtype=np.int32)


def scheme_of(features: int, dims: int, density: float, seed: int = 0) -> Scheme:
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(features, dims)).astype(np.float32)
    return Scheme.from_dense(table, rng.random((features, dims)) < density)


def in_blocks() -> Scheme:
    """Runs of features that keep the same dimensions, some of them none."""
    kept = np.arange(24) < np.repeat([24, 9, 0, 9, 3], [4, 30, 7, 50, 9])[:, None]
    return Scheme.from_dense(np.random.default_rng(1).normal(size=kept.shape).astype(np.float32), kept)


def last_in_blocks() -> Scheme:
    """Runs of features that keep the same dimensions, the last ones."""
    scheme = in_blocks()
    return Scheme.from_dense(scheme.dense()[:, ::-1].copy(), scheme.mask()[:, ::-1].copy())


def prefixes() -> Scheme:
    """The first dimensions of each feature, as many as may be."""
    rng = np.random.default_rng(2)
    kept = np.arange(24) < rng.integers(0, 24, size=(500, 1))
    return Scheme.from_dense(rng.normal(size=kept.shape).astype(np.float32), kept)


def lengths(scheme: Scheme) -> np.ndarray:
    """How many dimensions there are up to the last one that each feature keeps."""
    return np.array([max(np.flatnonzero(row) + 1, default=0) for row in scheme.mask()])


def _no_numba(coded: bool) -> dict[str, object]:
    raise ImportError


@pytest.fixture(params=["numpy", "numba"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Rows made by NumPy, and by the compiled loops."""
    if request.param == "numba":
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(loops, "_kernels", _no_numba)
    return str(request.param)


@given(st.integers(1, 70), st.integers(0, 300), st.floats(0, 1), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_fp32_is_the_masked_table_bit_by_bit(features: int, dims: int, density: float, seed: int) -> None:
    scheme = scheme_of(features, dims, density, seed)
    wanted = np.random.default_rng(seed).integers(features, size=(3, 5))
    for layout in LAYOUTS:
        packed = scheme.packed(NO_BLOCKS, "fp32", layout)
        assert np.array_equal(packed.rows(wanted), scheme.dense()[wanted])
        assert np.array_equal(packed.unprojected(), scheme.dense())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [in_blocks, lambda: scheme_of(40, 24, 0.2), lambda: scheme_of(9, 300, 0.5)])
def test_rows_are_within_the_bounds_of_the_type(
    layout: LayoutName, dtype: DTypeName, make: object, either_way: str
) -> None:
    scheme = make()  # type: ignore[operator]
    dense, mask = scheme.dense(), scheme.mask()
    largest = np.abs(dense).max(1, initial=0, keepdims=True)
    packed = scheme.packed(NO_BLOCKS, dtype, layout)
    rows = packed.rows(np.arange(scheme.features))
    bound = {
        "fp32": np.zeros_like(dense),
        "fp16": np.maximum(np.abs(dense) * 2.0**-11, 2.0**-25),
        "bf16": np.abs(dense) * 2.0**-8,
        "int8": np.broadcast_to(largest / 254 * (1 + 2.0**-7) * (1 + 1e-6), dense.shape),
    }[dtype]
    assert (np.abs(rows - dense) <= bound).all()
    assert not rows[~mask].any()
    assert dtype == "fp32" or (rows != dense).any()


def test_a_table_of_many_rows_is_made_in_pieces(either_way: str) -> None:
    scheme = scheme_of(300, 8, 0.4)
    wanted = np.random.default_rng(0).integers(300, size=3 * (1 << 14) + 5)
    for layout in LAYOUTS:
        assert np.array_equal(scheme.packed(NO_BLOCKS, "fp32", layout).rows(wanted), scheme.dense()[wanted])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_file_has_the_size_that_is_told_and_reads_back(
    layout: LayoutName, dtype: DTypeName, tmp_path: Path
) -> None:
    for number, scheme in enumerate([in_blocks(), scheme_of(700, 24, 0.1), scheme_of(5, 0, 1), scheme_of(20, 7, 0)]):
        packed = scheme.packed(NO_BLOCKS, dtype, layout)
        path = tmp_path / f"{number}.safetensors"
        packed.save(path)
        read = PackedTable.load(path)
        assert path.stat().st_size == packed.bytes == read.bytes
        assert sum(packed.parts.values()) <= packed.bytes
        assert np.array_equal(read.unprojected(), packed.unprojected())
        assert read.parts == packed.parts
        stored = {"dense": scheme.features * scheme.base_dim, "prefix": int(lengths(scheme).sum())}
        assert read.kept == stored.get(layout, scheme.kept)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_entries_are_those_of_the_scheme(layout: LayoutName) -> None:
    for scheme in (in_blocks(), scheme_of(50, 24, 0.3)):
        indptr, positions, values = scheme.packed(NO_BLOCKS, "fp32", layout).entries()
        if layout == "dense":
            assert np.array_equal(values, scheme.dense().ravel())
        elif layout == "prefix":
            there = np.arange(scheme.base_dim) < lengths(scheme)[:, None]
            assert np.array_equal(values, scheme.dense()[there])
            assert np.array_equal(positions, there.nonzero()[1])
        else:
            assert np.array_equal(indptr, scheme.indptr)
            assert np.array_equal(positions, scheme.positions)
            assert np.array_equal(values, scheme.values)


@pytest.mark.parametrize(
    ("scheme", "layout"),
    [
        (scheme_of(500, 16, 1.0), "dense"),
        (last_in_blocks(), "blocks"),
        (prefixes(), "prefix"),
        (scheme_of(500, 16, 0.5), "bitmap"),
        (scheme_of(500, 64, 0.05), "csr"),
    ],
)
def test_the_smallest_layout_is_taken(scheme: Scheme, layout: LayoutName) -> None:
    assert scheme.packed(NO_BLOCKS).layout.name == layout
    sizes = {one: scheme.packed(NO_BLOCKS, "fp32", one).bytes for one in LAYOUTS}
    assert scheme.packed(NO_BLOCKS).bytes == min(sizes.values())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("density", [0.0, 0.02, 0.1, 0.4])
@pytest.mark.parametrize(("features", "dims"), [(3, 1), (102, 2), (50, 4)])
def test_of_small_files_the_smallest_is_taken_headers_included(
    features: int, dims: int, density: float, dtype: DTypeName
) -> None:
    scheme = scheme_of(features, dims, density)
    sizes = [scheme.packed(NO_BLOCKS, dtype, one).bytes for one in LAYOUTS]
    assert scheme.packed(NO_BLOCKS, dtype).bytes == min(sizes)


def test_index_types_follow_the_number_of_dimensions() -> None:
    for dims, bytes_each in ((256, 1), (257, 2)):
        assert (
            scheme_of(30, dims, 0.1).packed(NO_BLOCKS, "fp32", "csr").layout.tensors()["positions"].itemsize
            == bytes_each
        )


@pytest.mark.parametrize(("copies", "masked"), [(1, False), (2, False), (2, True)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_projected_rows_are_those_of_the_model(copies: int, masked: bool, layout: LayoutName, either_way: str) -> None:
    torch.manual_seed(0)
    block_of = np.repeat([0, 1, 2, 0, 3], [5, 9, 3, 2, 4])
    table = MixedTable(block_of, [8, 4, 0, 2], 8, copies=copies, projected=True, std=1.0)
    if masked:
        table.keep(table.entries(), table.kept() & (torch.rand(23, 8 * copies) < 0.7))
    scheme = Scheme.from_dense(table.entries().numpy(), table.kept().numpy(), table.projection_arrays())
    packed = scheme.packed(block_of, "fp32", layout)
    wanted = np.arange(23)[::-1].copy()
    assert np.allclose(packed.rows(wanted), table(torch.from_numpy(wanted)).detach().numpy(), atol=1e-6)
    assert packed.parts["projections"] > 4 * sum(matrix.size for matrix in scheme.projections.values())


def test_projections_read_back(tmp_path: Path) -> None:
    scheme, block_of = in_blocks(), np.repeat([0, 7], [40, 60])
    scheme = Scheme(scheme.indptr, scheme.positions, scheme.values, 24, {7: np.ones((9, 24), np.float32)})
    packed = scheme.packed(block_of)
    packed.save(tmp_path / "table")
    read = PackedTable.load(tmp_path / "table")
    assert np.array_equal(read.rows(np.arange(100)), packed.rows(np.arange(100)))
    assert not np.array_equal(read.rows(np.arange(100)), read.unprojected())


def test_runs_of_a_projection_that_one_block_alone_has() -> None:
    made = Projections.of({3: np.ones((2, 4), np.float32)}, np.array([0, 0, 3, 3, 1, 3]))
    assert made.first.tolist() == [0, 2, 4, 5]
    assert made.block.tolist() == [0, 4, 0, 4]


@pytest.mark.parametrize("wanted", [[-1], [0, 40], [41]])
def test_a_feature_that_is_not_there_is_refused(wanted: list[int]) -> None:
    with pytest.raises(IndexError, match=r"the table has 0 … 39"):
        scheme_of(40, 8, 0.5).packed(NO_BLOCKS).rows(np.array(wanted))


def test_numbers_too_large_for_fp16_are_refused() -> None:
    scheme = Scheme.from_vectors([np.array([0])], [np.array([70_000.0])], 1)
    with pytest.raises(OverflowError, match="fp16 holds numbers up to 65504, not 70000"):
        scheme.packed(NO_BLOCKS, "fp16")
    assert scheme.packed(NO_BLOCKS, "bf16").rows(np.array([0]))[0, 0] == pytest.approx(70_000, rel=2**-8)


def test_int8_reaches_zero_rows_and_tiny_numbers() -> None:
    scheme = Scheme.from_vectors([np.array([0, 1]), np.array([0])], [np.zeros(2), np.array([1e-42])], 2)
    assert np.abs(scheme.packed(NO_BLOCKS, "int8", "csr").unprojected()).max() < 1e-40


def test_what_bf16_cannot_hold() -> None:
    assert np.isnan(from_bf16(to_bf16(np.array([np.nan, -np.nan], np.float32)))).all()
    with pytest.raises(OverflowError, match=r"bf16 holds numbers up to 3\.38953e\+38, not 3\.4e\+38"):
        PackedTable.of(np.array([0, 1]), np.array([0]), np.array([3.4e38], np.float32), 1, dtype="bf16")


def test_bf16_is_that_of_torch() -> None:
    bits = np.random.default_rng(0).integers(2**32, size=100_000, dtype=np.uint32)
    values = np.concatenate([bits.view(np.float32), np.array([0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8], np.float32)])
    values = values[np.abs(values) < 3e38]
    assert np.array_equal(from_bf16(to_bf16(values)), torch.from_numpy(values).bfloat16().float().numpy())


@given(st.lists(st.integers(0, 700), max_size=200), st.integers(1, 300))
def test_pointers_are_the_numbers(counts: list[int], times: int) -> None:
    numbers = np.append(0, np.cumsum(np.tile(np.array(counts, dtype=np.int64), times)))
    made = Pointers.of(numbers)
    read = Pointers.read(made.tensors("starts"), "starts", len(numbers) - 1)
    for one in (made, read):
        assert np.array_equal(one.every(), numbers)
    assert made.base.nbytes + made.offset.nbytes <= 4 * len(numbers) + 4


def test_flat_places_are_the_lists_one_after_the_other() -> None:
    assert flat_places(np.array([7, 0, 3]), np.array([2, 0, 3])).tolist() == [7, 8, 3, 4, 5]
    assert not len(flat_places(np.zeros(0, np.int64), np.zeros(0, np.int64)))


@pytest.mark.parametrize("layout", ["blocks", "bitmap", "csr"])
def test_a_damaged_file_is_refused_or_gives_wrong_rows_but_harms_nothing(layout: LayoutName, tmp_path: Path) -> None:
    pytest.importorskip("numba")
    path, rng = tmp_path / "table.safetensors", np.random.default_rng(0)
    in_blocks().packed(NO_BLOCKS, "int8", layout).save(path)
    whole, refused = path.read_bytes(), 0
    for _ in range(150):
        content = bytearray(whole)
        for place in rng.integers(len(content), size=3):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            PackedTable.load(path).rows(np.arange(100))
        except (*DAMAGE, MemoryError):
            refused += 1
    assert 0 < refused < 150


def test_a_projection_of_another_shape_is_refused(tmp_path: Path) -> None:
    scheme = in_blocks()
    scheme = Scheme(scheme.indptr, scheme.positions, scheme.values, 24, {0: np.ones((9, 23), np.float32)})
    scheme.packed(np.zeros(100, dtype=np.int32)).save(tmp_path / "table")
    with pytest.raises(ValueError, match="a projection of"):
        PackedTable.load(tmp_path / "table")
